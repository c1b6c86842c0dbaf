"""Choose dtype, linear layers, attention and threads."""
from __future__ import annotations
import attrs

@attrs.frozen(kw_only=True)
class Choice:
    dtype: str
    linear: str
    attention: str
    threads: int
    decisions: tuple[str, ...] = ()

def choose(options, checkpoint, progress):
    import os
    arg=options.engine_arg
    return Choice(dtype='float32',linear=arg.get('linear','packed16' if checkpoint.dtype in('bfloat16','float16') else 'plain'),attention=options.attention if options.attention!='auto' else 'grouped',threads=options.threads or os.cpu_count())
