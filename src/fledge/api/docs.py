"""The page at `/docs`: the OpenAPI document as plain HTML.

One string, with its style inside and no script: it asks no other host for anything, and the
policy that is sent with it would not let it.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
section { border-top: 1px solid #8885; margin-top: 2rem; padding-top: 1rem; }
h2 code { font-size: 1rem; }
.method { border-radius: .3rem; padding: .1rem .5rem; background: #2a6; color: #fff;
  font: 700 .8rem system-ui; }
.method.post { background: #26a; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; }
td:first-child, td:nth-child(2) { white-space: nowrap; }
pre { overflow-x: auto; padding: .8rem; background: #8882; border-radius: .4rem; }
"""

_PLACES = {
    "model_id": "sentence-transformers/all-MiniLM-L6-v2",
    "task": "feature-extraction",
    "key": "team",
}

_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def docs_page(openapi: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    info = openapi["info"]
    sections = "".join(
        _section(method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    )
    title = escape(f"{info['title']} {info['version']}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{title}</h1><p>{escape(info.get('description', ''))}</p>"
        '<p>For tools: <a href="openapi.json">openapi.json</a></p>'
        f"{sections}</body></html>"
    )


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    example = content.get("example")
    return (
        f'<section><h2><span class="method {escape(method)}">{escape(method.upper())}</span> '
        f"<code>{escape(path)}</code></h2>"
        f"<p>{escape(operation.get('description', ''))}</p>"
        f"{_parameters(operation)}{_fields(content.get('schema', {}))}"
        f"{_example(path, example)}</section>"
    )


def _parameters(operation: dict[str, Any]) -> str:
    queries = [one for one in operation.get("parameters", ()) if one["in"] == "query"]
    return _table(
        "parameter",
        [(one["name"], one.get("schema", {}), one.get("description", "")) for one in queries],
    )


def _fields(schema: dict[str, Any]) -> str:
    fields = schema.get("properties", {})
    return _table(
        "field",
        [(name, field, field.get("description", "")) for name, field in fields.items()],
    )


def _table(title: str, rows: Sequence[tuple[str, dict[str, Any], str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(schema))}</td>"
        f"<td>{escape(description)}</td></tr>"
        for name, schema, description in rows
    )
    return f"<table><tr><th>{title}</th><th>type</th><th></th></tr>{lines}</table>" if lines else ""


def _kind(field: dict[str, Any]) -> str:
    """The type of a field in a few words."""
    if "anyOf" in field:
        kinds = dict.fromkeys(_kind(each) for each in field["anyOf"])
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in field:
        return " or ".join(json.dumps(value) for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "any"))


def _example(path: str, example: Any) -> str:
    if example is None:
        return ""
    command = (
        f"curl http://127.0.0.1:8080{path.format(**_PLACES)} \\\n"
        f"  -H 'content-type: application/json' \\\n  -d '{json.dumps(example)}'"
    )
    return f"<pre>{escape(command)}</pre>"
