"""Write the code that each stage of dvc.yaml depends on: its rules' modules and their imports.

make stages
"""

import re

from reco.code import FOLDER, sources

ROOT = FOLDER.parents[1]
RULE = re.compile(r"^(?:rule|use rule \w+ as) (\w+)(?: with)?:\n((?:[ \t]+.*\n|\n)*)", re.MULTILINE)
STAGE = re.compile(r"^  ([\w-]+):\n((?:    .*\n|\n)*)", re.MULTILINE)
CODE = re.compile(r"^      - src/reco/\S*\n", re.MULTILINE)


def modules_of_rules() -> dict[str, set[str]]:
    """The modules that each rule names by `code(...)`; else the one of `workflow` with its name."""
    found = {}
    for file in sorted((ROOT / "workflow/rules").glob("*.smk")):
        for name, body in RULE.findall(file.read_text()):
            own = {f"workflow.{name}"} if (FOLDER / f"workflow/{name}.py").exists() else set()
            found[name] = set(re.findall(r'\bcode\("([\w.]+)"\)', body)) or own
            if name == "weights":  # whose edits convert nothing anew by themselves
                found[name].add("models.packaged")
            if "weights(" in body:
                found[name].add("models")
    return found


def write_code(text: str) -> str:
    """The text of dvc.yaml with the code of every stage; nothing else is changed."""
    rules = modules_of_rules()

    def rewrite(stage: re.Match[str]) -> str:
        allowed = re.search(r"--allowed-rules\s(.*?)\s--\s", stage[2], re.DOTALL)
        if not allowed:
            return stage[0]
        modules = set().union(*(rules.get(rule, set()) for rule in allowed[1].split()))
        files = {path.relative_to(ROOT).as_posix() for path in sources(*sorted(modules))}
        if "models" in modules:  # whichever network the config names
            files = {file for file in files if "/models/" not in file} | {"src/reco/models"}
        body = CODE.sub("", stage[2])
        lines = "".join(f"      - {file}\n" for file in sorted(files))
        head, deps, rest = body.partition("    deps:\n")
        listed = re.match(r"(?:      .*\n)*", rest)[0]
        return f"  {stage[1]}:\n{head}{deps}{listed}{lines}{rest[len(listed) :]}"

    return STAGE.sub(rewrite, text)


if __name__ == "__main__":
    path = ROOT / "dvc.yaml"
    path.write_text(write_code(path.read_text()))
