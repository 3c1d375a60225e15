"""What mkdocs does not do by itself: formulas as MathML, the page of all commands, and the reports beside the pages."""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from reports.equations import to_mathml  # noqa: E402

PUBLISHED = ROOT / "reports" / "published"
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)
_INLINE = re.compile(r'<span class="arithmatex">\s*\\\((.*?)\\\)\s*</span>', re.DOTALL)
_TAG = re.compile(r"\\tag\{([^}]+)\}")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of commands, and everything published: pages where they are built, verdicts and evidence."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    for path in sorted(path for path in PUBLISHED.rglob("*") if path.is_file() and not path.name.startswith(".")):
        name = path.relative_to(PUBLISHED)
        if path.suffix != ".md":  # the pages say the same
            files.append(File.generated(config, f"reports/{name.as_posix()}", abs_src_path=str(path)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Formulas, which arithmatex has marked, as MathML; a tag becomes the equation's anchor."""
    return _INLINE.sub(
        lambda found: _math(found, block=False), _BLOCK.sub(lambda found: _math(found, block=True), html)
    )


def _math(found: re.Match[str], *, block: bool) -> str:
    latex = html.unescape(found[1]).strip()
    tag = _TAG.search(latex)
    made = to_mathml(_TAG.sub("", latex).strip(), block=block)
    if tag is None:
        return f'<div class="equation">{made}</div>' if block else made
    return f'<div class="equation" id="{tag[1]}">{made}<a class="tag" href="#{tag[1]}">({tag[1]})</a></div>'


def commands_page() -> str:
    """Every program, command and option, as the parsers know them."""
    from spikeshrink import PROGRAMS

    blocks = [
        "# Commands",
        "Options, units and defaults as `--help` prints them. Every command ends with an exit status: "
        "[how a verdict is reached](verdicts.md#from-verdicts-to-exit-statuses).",
    ]
    for program, (module, what) in PROGRAMS.items():
        found = __import__(module, fromlist=["COMMANDS"])
        blocks.append(f"## spikeshrink {program}\n\n{what[0].upper()}{what[1:]}.")
        for command in found.COMMANDS:
            parser = argparse.ArgumentParser(prog=f"spikeshrink {program} {command.name}")
            command.fill(parser)
            blocks.append(f"### {program} {command.name}\n\n{_words(parser.description or command.help)}")
            if parser.epilog:
                blocks.append(f"```text\n{parser.epilog}\n```")
            rows = [row for action in parser._actions if (row := _option(action))]
            blocks.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(blocks) + "\n"


def _option(action: argparse.Action) -> str:
    if isinstance(action, argparse._HelpAction):
        return ""
    shown = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
    if action.option_strings and action.nargs != 0:
        value = action.metavar or ("{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest)
        if not isinstance(action, argparse.BooleanOptionalAction):
            shown += f" `{value if isinstance(value, str) else ' '.join(value)}`"
    told = (action.help or "").replace("%%", "%").replace("%(default)s", str(action.default))
    return f"| {shown.replace('|', chr(92) + '|')} | {_words(told)} |"


def _words(told: str) -> str:
    line = " ".join(told.split())
    return re.sub(r"([*_|<\[])", r"\\\1", line)
