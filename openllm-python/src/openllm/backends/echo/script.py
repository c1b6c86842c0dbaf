"""What an echo backend can be told to do: its answer, its pace and its faults, as `--engine-arg KEY=VALUE`.

Read by `EchoBackend.load`, and by the checks of a start.
"""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Script:
    """One echo backend's script. Token positions count from 1: `fail_at=3` yields two tokens, then the fault.

    Attributes:
        reply: text every request gets instead of its own prompt.
        peak: how far the scripted token's logit stands above the runner-up; 50 makes sampling certain, 1 makes
            temperature, seed, top_p, … show.
        step_s, prefill_s: seconds a step, and a step in which a request joins, takes.
        load_s: seconds loading takes.
        fail_load: message of the error that loading ends with.
        crash_load: exit status with which the process ends while loading.
        break_load: how loading goes wrong, by its name in `faults.FAULTS`: host process only.
        family: generations of processes that the host starts and that outlive it unless they are killed.
        stray: they leave the host's process group, where a group's end does not reach them.
        fail_at: token at which the request alone fails.
        nan_at: token at which its logits are not finite.
        die_at: token at which the process that runs the backend ends at once, with `exit_code`: host process only.
        hang_at: token at which steps stop for good while the process lives.
        freeze_at: token at which the whole process stands still: host process only.
        spin_at: token at which native code computes for ever and lets no other thread run: host process only.
        crash_at: token at which native code crashes: host process only.
        raise_at: token at which the step raises while it computes this sequence.
        memory_at: token at which memory runs out, until the newest sequence has been given up.
        when: text a prompt must contain for the nine faults above to strike; empty = every prompt.
        guides: answers take the form that a request asks for: of a list of choices the first is said, of a JSON schema the
            least instance, or `reply` where that is a JSON object; expressions and grammars are refused.
        call: a tool call as NAME(JSON), made where a prompt tells of tools and brings no result of one; where a call must
            come, it is this one if it may be, else the least one.
        embed: numbers in a vector; 0 = no embeddings.
        warm_up: they strike the engine's own first request (a start token alone), too.
        die_once: file created at the first death; while it exists nobody dies again.
    """

    reply: str | None = None
    peak: float = 50.0
    step_s: float = 0.0
    prefill_s: float = 0.0
    load_s: float = 0.0
    fail_load: str | None = None
    crash_load: int | None = None
    break_load: str | None = None
    family: int = 0
    stray: bool = False
    fail_at: int | None = None
    nan_at: int | None = None
    die_at: int | None = None
    exit_code: int = 3
    hang_at: int | None = None
    freeze_at: int | None = None
    spin_at: int | None = None
    crash_at: int | None = None
    raise_at: int | None = None
    memory_at: int | None = None
    when: str = ""
    warm_up: bool = False
    die_once: str | None = None
    max_model_len: int = 4096
    max_num_seqs: int = 64
    logprobs: bool = True
    guides: bool = True
    call: str | None = None
    embed: int = 0

    @property
    def faulty(self) -> bool:
        """Whether any fault strikes at some token."""
        alone = (self.fail_at, self.nan_at, self.raise_at, self.memory_at)
        positions = (*alone, self.die_at, self.hang_at, self.freeze_at, self.spin_at, self.crash_at)
        return any(position is not None for position in positions)
