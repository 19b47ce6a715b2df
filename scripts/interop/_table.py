"""Runs the checks of this folder and prints their rows as a table.

A check is a file `<name>.py` with a function `run(context)` that gives rows `(name, what, measured, limit, ok)`: what was
compared with what, the number that came out, the number it must not exceed (or None), and whether it holds. Files whose names
begin with `_` are no checks.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent


class Context:
    """What a check is given: the program, and a folder of its own."""

    def __init__(self, binary, work):
        self.binary = pathlib.Path(binary).resolve()
        self.work = pathlib.Path(work)
        self.work.mkdir(parents=True, exist_ok=True)
        self._made = 0

    def path(self, name):
        """A path that nothing else is given, and at which there is nothing yet."""
        self._made += 1
        return self.work / f"{self._made:03}-{name}"

    def folder(self, name):
        """An empty folder of its own."""
        path = self.path(name)
        path.mkdir()
        return path

    @staticmethod
    def seeded(model, seed):
        """Draws the weights of a torch module so that mistakes show: attention far from even, norms and biases not trivial."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in sorted(model.named_parameters()):
                drawn = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() > 1:
                    parameter.copy_(drawn / parameter.shape[-1] ** 0.5)
                else:
                    # Norm weights stay about 1 and biases about 0.
                    parameter.add_(0.15 * drawn)
        return model.float().eval()

    @staticmethod
    def sequences(vocab_size, lengths, seed, first=5):
        """Random token ids from `first` on, one list a length."""
        import random

        drawn = random.Random(seed)
        return [[drawn.randrange(first, vocab_size) for _ in range(length)] for length in lengths]

    @staticmethod
    def worst(found, expected):
        """The largest difference between two lists of tensors."""
        pairs = list(zip(found, expected, strict=True))
        for a, b in pairs:
            if a.shape != b.shape:
                raise RuntimeError(f"logits of shape {tuple(a.shape)}, expected {tuple(b.shape)}")
        return max(float((a.float() - b.float()).abs().max()) for a, b in pairs)

    def taiyi(self, *arguments):
        """Runs the program and gives what it prints; what it complains of becomes an exception."""
        ran = subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, cwd=self.work)
        if ran.returncode != 0:
            complaint = next((line for line in ran.stderr.splitlines() if line.startswith("error")), ran.stderr.strip())
            raise RuntimeError(f"taiyi {arguments[0]} {arguments[1]}: exit {ran.returncode}: {complaint}")
        return ran.stdout

    def logits(self, model, sequences, adapter=None, dtype="f32"):
        """Logits of token sequences by `taiyi model logits`: a list of f32 tensors, one a sequence."""
        from safetensors.torch import load_file

        out = self.path("logits.safetensors")
        extra = [] if adapter is None else ["--adapter", adapter]
        tokens = self._tokens(sequences)
        self.taiyi("model", "logits", "--model", model, *extra, "--dtype", dtype, "--tokens", tokens, "--out", out)
        found = load_file(out)
        return [found[f"logits_{i}"] for i in range(len(sequences))]

    def generate(self, model, sequences, max_new, adapter=None, dtype="f32"):
        """Greedy continuations by `taiyi model generate`: a list of lists of new ids."""
        out = self.path("generated.json")
        extra = [] if adapter is None else ["--adapter", adapter]
        tokens = self._tokens(sequences)
        self.taiyi(
            "model", "generate", "--model", model, *extra, "--dtype", dtype, "--tokens", tokens, "--max-new", max_new, "--out", out
        )
        return json.loads(out.read_text())["output_ids"]

    def _tokens(self, sequences):
        path = self.path("tokens.json")
        path.write_text(json.dumps({"input_ids": [[int(i) for i in sequence] for sequence in sequences]}))
        return path


def load(path):
    """The module of a check, under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"interop_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, binary, work):
    """The rows of a check; one that breaks off is a row that does not hold."""
    try:
        return list(load(HERE / f"{name}.py").run(Context(binary, work / name)))
    except Exception as error:  # A broken check must not hide the rows of the others.
        traceback.print_exc()
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return [(name, f"the check broke off: {reason}"[:300], None, None, False)]


def number(value):
    if value is None:
        return "–"
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def markdown(rows):
    lines = ["| check | what | measured | at most | holds |", "|---|---|---|---|---|"]
    for check, (name, what, measured, limit, ok) in rows:
        lines.append(f"| {check}: {name} | {what} | {number(measured)} | {number(limit)} | {'yes' if ok else '**no**'} |")
    return "\n".join(lines)


def plain(rows):
    cells = [["check", "what", "measured", "at most", "holds"]]
    for check, (name, what, measured, limit, ok) in rows:
        cells.append([f"{check}: {name}", what, number(measured), number(limit), "yes" if ok else "NO"])
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def main():
    checks = sorted(p.stem for p in HERE.glob("*.py") if not p.name.startswith("_"))
    parser = argparse.ArgumentParser(prog="scripts/interop/run")
    parser.add_argument("--binary", required=True)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true")
    form.add_argument("--json", action="store_true")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(checks))
    options = parser.parse_args()
    unknown = [name for name in options.checks if name not in checks]
    if unknown:
        parser.error(f"no check `{unknown[0]}`; there are {', '.join(checks)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    work = options.work.resolve()
    rows = []
    for name in options.checks or checks:
        begin = time.monotonic()
        found = run(name, options.binary, work)
        rows += [(name, row) for row in found]
        held = sum(bool(row[4]) for row in found)
        print(f"{name}: {held} of {len(found)} hold, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    if options.json:
        keys = ["name", "what", "measured", "limit", "ok"]
        table = [{"check": check, **dict(zip(keys, row))} for check, row in rows]
        print(json.dumps({"rows": table}, indent=1))
    else:
        print(markdown(rows) if options.markdown else plain(rows))
    return 0 if rows and all(row[4] for _, row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
