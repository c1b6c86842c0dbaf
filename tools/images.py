"""Our container images as the workflow makes them: built, scanned, and only then published, with a signature and a bill of materials.

    python tools/images.py make --device cpu|cuda --strategy nightly|release|latest...
    python tools/images.py scan        a report of known holes and a bill of materials for each; fails on a critical hole with a fix
    python tools/images.py publish     push, sign, and attach the bill of materials

What was made stands in dist/images/images.json. Run by .github/workflows/images.yml; needs a container engine, trivy and
cosign, and for `make` an installed openllm. What is in an image is the matter of `openllm build-base-container`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dist" / "images"
REGISTRY = "gh"


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make, scan and publish our container images.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where reports and the list of images lie")
    verbs = parser.add_subparsers(dest="verb", required=True)
    making = verbs.add_parser("make")
    making.add_argument("--device", choices=("cpu", "cuda"), required=True)
    making.add_argument("--strategy", choices=("nightly", "release", "latest"), nargs="+", required=True)
    verbs.add_parser("scan")
    verbs.add_parser("publish")
    asked = parser.parse_args(arguments)
    try:
        if asked.verb == "make":
            make(asked.folder, asked.device, asked.strategy)
        elif asked.verb == "scan":
            return scan(asked.folder)
        else:
            publish(asked.folder)
    except subprocess.CalledProcessError as error:
        print(f"error: `{' '.join(map(str, error.cmd))}` ended with {error.returncode}", file=sys.stderr)
        return 1
    return 0


def make(folder: Path, device: str, strategies: list[str]) -> None:
    """Build the images of a device; with several strategies the later ones are further names, built from the cache."""
    made: list[str] = []
    for strategy in strategies:
        command = ["build-base-container", "--device", device, "--version-strategy", strategy]
        command += ["--container-registry", REGISTRY, "--no-push", "-o", "json"]
        told = run(sys.executable, "-m", "openllm", *command, capture=True)
        made += json.loads(told)[REGISTRY]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print("\n".join(made))


def images(folder: Path) -> list[str]:
    """Names of what was made."""
    return json.loads((folder / "images.json").read_text(encoding="utf-8"))


def stem(image: str) -> str:
    """`ghcr.io/bentoml/openllm:latest-cpu` as the name of a file."""
    return image.rpartition("/")[2].replace(":", "-")


def scan(folder: Path) -> int:
    """Write NAME.sarif and NAME.cdx.json for each image; 1 where one has a critical hole that a newer package closes."""
    failed = 0
    for image in images(folder):
        at = folder / stem(image)
        run("trivy", "image", "--quiet", "--format", "cyclonedx", "--output", f"{at}.cdx.json", image)
        holes = ["--severity", "CRITICAL", "--ignore-unfixed", "--scanners", "vuln", "--exit-code", "1"]
        command = ["trivy", "image", "--quiet", *holes, "--format", "sarif", "--output", f"{at}.sarif", image]
        code = subprocess.run(command, check=False).returncode
        print(f"{image}: {'no critical hole with a fix' if code == 0 else f'see {at}.sarif'}")
        failed |= code != 0
    return int(failed)


def publish(folder: Path) -> None:
    """Push each image, and sign what the registry then has by its digest."""
    for image in images(folder):
        run("docker", "push", "--quiet", image)
        digest = run("docker", "image", "inspect", "--format", "{{index .RepoDigests 0}}", image, capture=True).strip()
        bill = f"{folder / stem(image)}.cdx.json"
        run("cosign", "sign", "--yes", digest)
        run("cosign", "attest", "--yes", "--type", "cyclonedx", "--predicate", bill, digest)
        print(f"{image} is {digest}")


def run(*command: str, capture: bool = False) -> str:
    """Run a command that must end well; its stdout where that is wanted."""
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None)
    return done.stdout or ""


if __name__ == "__main__":
    sys.exit(main())
