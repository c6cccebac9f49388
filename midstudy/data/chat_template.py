"""The rendering of conversations as a template of transformers: `apply_chat_template` gives an exported model the same ids.

`{% generation %}` marks what has loss. The template works on text, so only a text that spells a special token, which
`conversation.py` keeps as text, comes out differently.
"""

from __future__ import annotations

CHAT_TEMPLATE = """
{{- bos_token -}}
{%- set turn = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set turn.system = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' -%}
{{- '<|user_start|>' + turn.system + message['content'] + '<|user_end|>' -}}
{%- set turn.system = '' -%}
{%- else -%}
{{- '<|assistant_start|>' -}}
{%- if message['content'] is string -%}
{%- generation -%}{{- message['content'] -}}{%- endgeneration -%}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{%- generation -%}{{- part['text'] -}}{%- endgeneration -%}
{%- elif part['type'] == 'python' -%}
{%- generation -%}{{- '<|python_start|>' + part['text'] + '<|python_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- '<|output_start|>' + part['text'] + '<|output_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- generation -%}{{- '<|assistant_end|>' -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}
""".strip().replace("\n", "")
