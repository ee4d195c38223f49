"""Writes templates.json: templates with what Jinja makes of them, as transformers sets it up for chat templates.

  python tests/golden/make_templates.py        needs jinja2 3.1 and transformers 5

A case is [template, variables' name, text], or [template, name, null] where Jinja raises. All templates are our own: expressions one by
one, statements, white space, and whole chat templates with the constructs of the families' (roles, parts by type, tools, namespaces).
Dicts have sorted keys, for Lua's tables have no order.
"""
import json
import os

from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = os.path.dirname(os.path.abspath(__file__))

PHOTO = {"image": "a.png", "type": "image"}
TEXT = {"text": "What is on the table?", "type": "text"}
TOOL = {"function": {"description": "Adds <two> & \"more\".", "name": "add", "parameters": {
    "properties": {"a": {"type": "number"}, "b": {"enum": [1, 2.5, None, True], "type": "number"}}, "required": ["a", "b"],
    "type": "object"}}, "type": "function"}
CALL = {"content": "", "role": "assistant", "tool_calls": [{"function": {"arguments": {"a": 1, "b": "é\n"}, "name": "add"}, "id": "c1"}]}
CHATS = {
    "one": [{"content": [PHOTO, TEXT], "role": "user"}],
    "plain": [{"content": "Hello there", "role": "user"}, {"content": "  Hi! \n", "role": "assistant"}, {"content": "日本語 ok?", "role": "user"}],
    "system": [{"content": [{"text": "Be brief.", "type": "text"}], "role": "system"}, {"content": [TEXT, PHOTO, TEXT, PHOTO], "role": "user"},
               {"content": [{"text": "A card.", "type": "text"}], "role": "assistant"}, {"content": [{"text": "And now?", "type": "text"}], "role": "user"}],
    "tools": [{"content": "Use tools.", "role": "system"}, {"content": "1+2?", "role": "user"}, CALL, {"content": "3", "name": "add", "role": "tool"},
              {"content": "4", "name": "add", "role": "tool"}, {"content": "<think>\nhm\n</think>\n\nThree.", "role": "assistant"}],
    "wrong": [{"content": "x", "role": "assistant"}, {"content": "y", "role": "assistant"}],
}

SCALARS = {
    "a": 3, "b": -7, "d": {"k": "v", "n": None, "x": {"y": [1, 2, {"z": "deep"}]}}, "e": [], "f": 2.5,
    "items": [{"n": "pear", "v": 2}, {"n": "Apple", "v": 3}, {"n": "fig", "v": 1}], "l": [3, 1, 2], "no": False, "none_": None, "s": "Hello, World",
    "t": "  a b\tc\n", "tiny": 1e-7, "u": "héé 日本 😀", "w": ["b", "A", "c", "a"], "yes": True, "z": 0,
}

EXPRESSIONS = r"""
1 ### -1 ### 1.0 ### 1e3 ### 1_000 ### 0x1F ### 0b101 ### 0o17 ### 1.5e-7 ### 'a' ### "a" ### 'a' 'b' ### 'a\nb' ### 'a\x41\u00e9' ### 'a\q' ### 'it\'s' ### true ### True ### none ### None ### false
1 + 2 ### 1 + 2.0 ### 7 - 10 ### 2 * 3.5 ### 7 / 2 ### 8 / 2 ### 7 // 2 ### -7 // 2 ### 7 % 3 ### -7 % 3 ### 7.5 % 2 ### 2 ** 10 ### 2 ** -1 ### 2 ** 3 ** 2 ### -2 ** 2 ### 1 / 0 ### 1 % 0 ### 0.1 + 0.2 ### 1e16 ### 1e15 ### 123456789.123 ### 1e-5 ### 0.0001 ### 1e100 ### 5e-324
true + 1 ### true + true ### true * 'ab' ### 'ab' * 3 ### 3 * 'ab' ### 'ab' * -1 ### [1] * 3 ### [1] + [2] ### (1,) + (2,) ### [1] + (2,) ### 'a' + 1 ### 1 + 'a' ### 'a' + 'b' ### 'a' ~ 1 ~ 2.0 ~ none ~ [1] ### nope ~ 'a' ### nope + 'a' ### 'a' - 'b' ### -'a' ### +3 ### - - 3
1 < 2 ### 2 <= 2 ### 1 == 1.0 ### 1 == true ### '1' == 1 ### 1 != 2 ### 1 < 2 < 3 ### 1 < 3 < 2 ### 'a' < 'b' ### 'a' < 1 ### [1, 2] < [1, 3] ### [1, 2] == [1, 2] ### [1] == (1,) ### {'a': 1} == {'a': 1.0} ### nope == nope ### nope == none ### none == none ### none < 1 ### 'é' > 'z'
1 in [1, 2] ### 1 not in [1, 2] ### 'a' in 'cat' ### 'k' in d ### 'v' in d ### 1 in 'a' ### 'a' in nope ### 'a' in none_ ### 2.0 in l ### '' in 'a' ### not 1 in [1] ### not (1 in [1])
true and false ### 1 and 2 ### 0 and 2 ### 0 or 'x' ### '' or none ### not '' ### not not 1 ### 1 or nope.x.y ### true and not false or false ### not none
'x' if yes else 'y' ### 'x' if no else 'y' ### 'x' if no ### ('x' if no) is undefined ### 1 if no else 2 if no else 3 ### ('a' if yes else 'b') + 'c'
[] ### [1, 'a', none, true, 1.0, [2], (3,), {'x': 1}] ### () ### (1,) ### (1, 2) ### {} ### {'a': 1, 'b': [2]} ### {1: 2} ### [1, 2,] ### {'a': 1,} ### (1) ### ['it\'s', 'a"b', 'é', '\n\t\\', 'both \'"']
s.upper() ### s.lower() ### s.title() ### s.capitalize() ### s.swapcase() ### s.split() ### s.split(', ') ### s.split('l', 1) ### 'a  b'.split(' ') ### ' a  b '.split() ### ' a  b c'.split(none, 1) ### s.split('') ### 'a,b,c'.rsplit(',', 1) ### s.splitlines() ### 'a\nb\r\nc\n'.splitlines() ### ''.split() ### ''.split(',')
t.strip() ### t.lstrip() ### t.rstrip() ### 'xxaxx'.strip('x') ### 'xyaxy'.lstrip('yx') ### '日本日'.strip('日') ### t.strip() ~ '|' ### s.startswith('Hell') ### s.endswith('ld') ### s.startswith(('x', 'H')) ### s.startswith('') ### s.replace('l', 'L') ### s.replace('l', 'L', 1) ### 'ab'.replace('', '-') ### 'é日'.replace('', '-', 2) ### s.find('o') ### s.rfind('o') ### s.find('zz') ### u.find('日') ### s.index('W') ### s.index('zz') ### s.count('l') ### 'aaa'.count('aa') ### 'abc'.count('')
', '.join(w) ### ', '.join(l) ### '-'.join('abc') ### s.partition(', ') ### s.partition('zz') ### 'ab'.ljust(5) ~ '|' ### 'ab'.rjust(5, '.') ### 'ab'.center(5, '*') ### 'abc'.center(6, '*') ### '7'.zfill(3) ### '-7'.zfill(4) ### 'abc'.removeprefix('a') ### 'abc'.removesuffix('bc') ### '12'.isdigit() ### '1a'.isdigit() ### 'ab'.isalpha() ### 'a1'.isalnum() ### ' '.isspace() ### 'AB'.isupper() ### 'aB'.islower() ### ''.isdigit()
s[0] ### s[-1] ### s[99] ### s[99] is undefined ### s[1:4] ### s[:-1] ### s[-3:] ### s[::-1] ### s[::2] ### s[10:2:-3] ### u[1] ### u[4:6] ### u[::-1] ### s[5:2] ### l[0] ### l[-1] ### l[5] ### l[1:] ### l[::-1] ### l[:-5] ### l[-5:2] ### (1, 2, 3)[1:] ### l['x'] ### l[1:2][0] ### s[::0] ### s[none:2] ### l[true]
d.k ### d['k'] ### d.n ### d.missing ### d.missing.more ### d['missing'] ### d.x.y[2].z ### d['x']['y'][2]['z'] ### d.x.y.0 ### d.get('k') ### d.get('zz') ### d.get('zz', 5) ### d.items() | list ### d.keys() | list ### d.values() | list ### d.keys() ### d.items() | length ### d | length ### nope.x ### none_.x ### none_.x.y ### a.x ### s.nope ### s.nope() ### nope() ### a() ### d.k() ### d[none_] ### d[1] ### {1: 'a'}[1] ### {1: 'a'}[1.0] ### {1: 'a'}[true]
l.append(1) ### d.update({}) ### d.pop('k') ### l.index(2) ### l.index(9) ### l.count(1) ### l.copy() ### d.copy() == d
a | abs ### b | abs ### f | int ### '42' | int ### 'x' | int ### 'x' | int(5) ### '0x1A' | int ### '1A' | int(0, 16) ### '3.9' | int ### none_ | int ### f | float ### '1.5' | float ### 'x' | float ### 3 | float ### 2.5 | round ### 3.5 | round ### 2.567 | round(2) ### 2.1 | round(0, 'ceil') ### 2.9 | round(method='floor') ### 42 | round ### -2.5 | round
s | upper ### s | lower ### s | title ### 'hello world. foo' | title ### s | capitalize ### t | trim ### 'xax' | trim('x') ### s | length ### u | length ### l | length ### d | length ### nope | length ### none_ | length ### s | replace('l', 'L') ### s | replace('l', 'L', 1) ### a | string ~ 'x' ### '<a & "b">' | e ### '<a>' | escape | length ### '<a>' | safe ### s | wordcount ### 'a\nb' | indent ### 'a\n\nb' | indent(2, true) ### 'a\n\nb' | indent(2, blank=true) ### 'a\nb\n' | indent(first=true) ### 'ab' | center(6) ~ '|' ### 5 | upper ### none | upper
nope | default('x') ### none_ | default('x') ### none_ | default('x', true) ### '' | default('x', boolean=true) ### '' | d('x') ### nope | d ### d.zz | default(1) ### d.zz.y | default(1)
l | first ### l | last ### e | first ### e | last ### s | first ### s | last ### d | first ### l | sort ### l | sort(reverse=true) ### w | sort ### w | sort(case_sensitive=true) ### items | sort(attribute='v') | map(attribute='n') | list ### items | sort(attribute='n') | map(attribute='n') | join(' ') ### l | reverse | list ### s | reverse ### l | min ### l | max ### w | min ### w | max(case_sensitive=true) ### e | max ### l | sum ### items | sum(attribute='v') ### items | sum('v', 10) ### ['a', 'A', 'b'] | unique | list ### l | list ### s | list ### d | list ### e | sum ### ['a'] | sum
w | join ### w | join(', ') ### l | join(', ') ### items | join(', ', attribute='n') ### [1, none, 'x', 2.0] | join('-') ### nope | join ### 5 | join
items | map(attribute='n') | list ### items | map(attribute='q') | list | length ### items | map(attribute='q', default=0) | list ### w | map('upper') | list ### w | map('replace', 'a', 'x') | join ### [' a', 'b '] | map('trim') | list ### l | map('string') | join ### [[1, 2], [3]] | map('length') | list ### [[1, 2], [3]] | map(attribute=0) | list ### [1.2] | map('round', precision=0) | list ### l | map | list ### w | map('nope') | list ### [l, w] | map('first') | list
l | select | list ### l | select('odd') | list ### l | reject('odd') | list ### l | select('>', 1) | list ### l | select('divisibleby', 3) | list ### [0, 1, '', 'a', none] | reject | list ### items | selectattr('v') | list | length ### items | selectattr('v', '>', 1) | map(attribute='n') | list ### items | rejectattr('n', 'equalto', 'fig') | list | length ### items | selectattr('q', 'defined') | list ### items | selectattr('q', 'undefined') | list | length ### items | selectattr('n', 'in', ['fig']) | list ### items | selectattr('v', 'eq', 1) | first ### (items | selectattr('v', 'eq', 99)) and 'true of a generator' ### items | selectattr('v') | length ### (items | selectattr('v'))[0] ### [{'a': {'b': 1}}, {'a': {}}] | selectattr('a.b', 'defined') | list ### l | select('nope') | list
d | dictsort ### {'b': 1, 'a': 2} | dictsort ### {'b': 1, 'a': 2} | dictsort(by='value') ### {'b': 1, 'A': 2} | dictsort(true) ### {'a': 1} | items | list ### nope | items | list ### l | items | list ### d | dictsort(reverse=true)
d | tojson ### items | tojson ### items | tojson(indent=2) ### l | tojson(indent=4) ### e | tojson(indent=2) ### {} | tojson(indent=2) ### u | tojson ### u | tojson(ensure_ascii=true) ### '😀"\\\n\t\x01/<>&' | tojson ### '😀' | tojson(ensure_ascii=true) ### d | tojson(separators=(',', ':')) ### {'b': 1, 'a': 2} | tojson ### {'b': 1, 'a': 2} | tojson(sort_keys=true) ### [1.0, 1e16, 1e-7, 0.1, -0.0, true, none] | tojson ### (1, 2) | tojson ### nope | tojson ### {1: 2, none: 3, true: 4} | tojson ### 'a' | tojson | length ### d | tojson(indent='--')
nope is defined ### nope is undefined ### a is defined ### nope is not defined ### none_ is none ### a is none ### nope is none ### s is string ### a is string ### d is mapping ### l is mapping ### l is iterable ### s is iterable ### a is iterable ### nope is iterable ### d is iterable ### l is sequence ### d is sequence ### s is sequence ### a is sequence ### a is number ### f is number ### yes is number ### yes is boolean ### a is boolean ### a is integer ### yes is integer ### f is integer ### f is float ### yes is true ### 1 is true ### no is false ### z is false ### 3 is odd ### 4 is even ### 9 is divisibleby 3 ### 9 is divisibleby(2) ### 'AB' is upper ### 'ab' is lower ### a is eq 3 ### a is equalto 3 ### a is sameas 3 ### a is ne 4 ### a is gt 2 ### a is lt(2) ### a is ge 3 ### a is le 2 ### a is greaterthan 2 ### a is in [1, 3] ### a is in(l) ### range is callable ### s is callable ### s is nope ### a is defined and a is odd ### a is not odd or b is odd ### a is string is string ### d.zz is defined ### d.zz.y is defined
range(3) | list ### range(1, 4) | list ### range(5, 0, -2) | list ### range(3) ### range(0, 10, 3) ### range(3) | length ### range(3)[1] ### range(5)[1:3] | list ### range(0) | list ### range(200000) | length ### 2 in range(3) ### dict(a=1, b='x') ### dict({'a': 1}, b=2) ### namespace(x=1).x ### namespace({'y': 2}).y ### namespace().z
(1, 2) | list | join ### ((1, 2), 3) ### {'a': (1,)} ### [nope] ### [none_, yes] | string ### 'a' if 'b' in 'abc' and not no else 'c' ### (l | sort)[0] ### l | sort | first ### s | upper | lower | length ### -l[0] ### -5 | abs ### (-5) | abs ### not l | length ### l | length > 2 ### l | length == 3 and 'three' ### 'x' ~ l | length ### 1 + l | length ### s.upper().lower()[0:2] | upper ### [1, 2][0] + 1 ### {'a': [1, 2]}.a[1] ### "%s" | length ### 'a' is string and 1 is number ### 2 * 3 + 4 ~ 5 ### 10 - 2 - 3 ### 2 + 3 * 4 ** 2 ### (2 + 3) * 4 ### 10 / 4 * 2 ### 1 == 1 == 1 ### l[0] if l else 'none' ### d.x['y'].0
raise_exception('No!') ### raise_exception() ### foo.bar ### foo['bar'] ### l | nope ### 1 + ### (1 ### [1 ### {1} ### 'a ### a b ### a. ### .5 ### a | ### a is ### @ ### a[ ### a[1:2:3:4] ### f(a=1, 2) ### 01 ### $ ### a ? b ### {'a' 1} ### 9 9
"""

STATEMENTS = [
    "{% if a %}x{% endif %}", "{% if no %}x{% elif a > 2 %}y{% else %}z{% endif %}", "{% if no %}x{% else %}z{% endif %}", "{% if nope %}x{% endif %}",
    "{% if nope is defined and nope.x %}x{% else %}y{% endif %}", "{% if d %}x{% endif %}{% if e %}y{% endif %}{% if {} %}z{% endif %}",
    "{% for i in l %}{{ i }}{% endfor %}", "{% for i in l %}{{ loop.index }}/{{ loop.length }}:{{ i }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for i in e %}x{% else %}empty{% endfor %}", "{% for i in nope %}x{% else %}empty{% endfor %}", "{% for i in none_ %}x{% endfor %}", "{% for i in 5 %}x{% endfor %}",
    "{% for c in 'héy' %}[{{ c }}]{% endfor %}", "{% for k in d %}{{ k }} {% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }} {% endfor %}", "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}", "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a ~ b ~ c }}{% endfor %}", "{% for i in l if i > 1 %}{{ loop.index0 }}{{ i }}{{ loop.last }} {% endfor %}",
    "{% for i in l if i > 9 %}x{% else %}none{% endfor %}", "{% for i in l %}{{ loop.first }}{{ loop.revindex }}{{ loop.revindex0 }} {% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }} {% endfor %}",
    "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in [1, 1, 2, 1] %}{{ loop.changed(i) }}{% endfor %}", "{% for i in l %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for i in l %}{% for j in [1, 2] %}{{ loop.index }}{{ i }}{{ j }} {% endfor %}{{ loop.index }};{% endfor %}", "{{ loop }}{{ loop is defined }}",
    "{% for i in l %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for i in l %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }}{% endfor %};{% endfor %}", "{% break %}", "{% for i in l %}{% continue %}{% else %}x{% endfor %}",
    "{% set x = 1 %}{{ x }}", "{% set x, y = 1, 2 %}{{ y }}{{ x }}", "{% set x, y = [1] %}", "{% set (x, y) = 'ab' %}{{ y }}", "{% set x = 1, %}{{ x }}", "{% set none = 1 %}", "{% set x %}a{{ a }}b{% endset %}[{{ x }}]",
    "{% set x | upper | trim %} abc {% endset %}[{{ x }}]", "{% set x = 0 %}{% for i in l %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}", "{% set x = 0 %}{% if yes %}{% set x = 5 %}{% endif %}{{ x }}",
    "{% set ns = namespace(n=0, found=false) %}{% for i in l %}{% set ns.n = ns.n + i %}{% if i == 1 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }}{{ ns.found }}",
    "{% set d.x = 1 %}", "{% set nope.x = 1 %}", "{% set ns = namespace() %}{% set ns.a = [1] %}{{ ns.a }}{{ ns.b }}", "{{ namespace(a=1) }}",
    "{% macro m(x, y=2) %}{{ x }}-{{ y }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(y=5, x=4) }}", "{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m() }}{{ m(1, 2) }}", "{% macro m() %}{{ s }}{{ a }}{% endmacro %}{% set s = 'new' %}{{ m() }}",
    "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro m(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ m(7) }}", "{% macro m(z=1) %}{{ z }}{% endmacro %}{{ m(q=1) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro m(x) %} {{ x }} {% endmacro %}{{ m('a') | trim | upper }}|{{ m('b').strip() }}", "{% macro m() %}{% set q = 1 %}{% endmacro %}{{ m() }}{{ q is defined }}",
    "{% with x = 1, y = a %}{{ x }}{{ y }}{% endwith %}{{ x is defined }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}banana{% endfilter %}",
    "{% generation %}x{{ a }}{% endgeneration %}", "{% generation %}{% set q = 1 %}{% endgeneration %}{{ q is defined }}", "{% raw %}{{ a }}{% if %}{% endraw %}x", "{%- raw -%}  {{ x }}  {%- endraw -%}  y", "{# a comment #}x{# {{ no }} {% #}y",
    "{% print a, s %}", "{{ a }}{{ '{{' }}{{ '}}' }}", "{{ {'a': {'b': 1}}}}", "{{ {'a': {'b': 1}}.a.b}}", "a{b}c{ d }", "}} %} #}", "{% set x = '%}' %}{{ x }}", "{{ '#}' }}{# '}}' #}", "{{- a -}}", "{{-1}}",
    "{% for i in range(3) %}{{ i }}{% endfor %}", "{% for x in items | selectattr('v', 'gt', 1) %}{{ x.n }} {% endfor %}", "{% for x in (items | selectattr('v') | list) + items %}{{ x.v }}{% endfor %}",
    "{% set g = items | map(attribute='v') %}{{ g | list }}{{ g | list }}", "{% set x = l | sort %}{{ x[0] }}{{ x[-1] }}", "{{ l | sort is iterable }}", "{% if l[0] == 3 and s[:5] == 'Hello' %}ok{% endif %}",
    "{{ a\n+\n1 }}", "{%if a%}x{%endif%}", "{%set x=1%}{{x}}", "{% if a %}{% if no %}1{% else %}2{% endif %}{% endif %}", "{% if (a == 3) and (s is string and s | length > 3) %}ok{% endif %}",
    "{% if a %}", "{% endif %}", "{% for %}{% endfor %}", "{% for x l %}{% endfor %}", "{% nope %}", "{% if a %}{% endfor %}", "{{ a", "{% if", "{# a", "{% raw %}x", "{% set %}", "{% set 1 = 2 %}", "{% else %}", "{% for i in l %}{% elif %}{% endfor %}", "{% macro %}{% endmacro %}",
    "{{ }}", "{% %}", "{% if %}x{% endif %}", "{% if a = 1 %}{% endif %}", "{{ a; }}", "{{ a)) }}", "{{ (a }}", "{{ [a) }}",
]

SPACES = [
    "x\n", "x\n\n", "\n", "x", "  {{ a }}  \n  {{ a }}\n", "a\r\nb\rc\n", "{% if a %}\nx\n{% endif %}\ny", "  {% if a %}\n  x\n  {% endif %}\n  y", "x  {% if a %}  \n  y{% endif %}", "x\n\t {% if a %}y\n\t {% endif %}z\n",
    "a  {%- if a %}  b  {%- endif %}  c", "a  {% if a -%}  b  {% endif -%}  c", "a\n\n  {%- if a -%}\n\n b \n{%- endif -%}\n\n c", "a\n  {%+ if a %}\n b{% endif +%}\nc", "  {{- a }}  {{ a -}}  x", "a \n {{- a -}} \n b", "a {#- c -#} b",
    "a\n  {# c #}\nb", "  {# c #}  {# d #}\nx", "a\n {#+ c #}\nb", "a {# c +#}\nb", "{# c #}\n\nx", "{{ a }}\nx\n{{ a }}\n", "{% set x = 1 %}\n\n{{ x }}", "{% for i in l %}\n  {{ i }}\n{% endfor %}", "{% for i in l %}\n  {{ i }}\n  {% endfor %}\nend",
    "{% for i in l -%}\n  {{ i }}\n{%- endfor %}\nend", "{%- for i in l %}\n  {{- i }}\n{%- endfor %}", "\n\n{%- if a %}x{% endif -%}\n\n", "a{% if a %}\n\nb{% endif %}", "{% if a %}  \nb{% endif %}", "é  {%- if a -%}  \u3000 é {%- endif %}",
    "  {% raw %}\n  x\n  {% endraw %}\n  y", "{% raw %}  x {% endraw %}", "a\n  {%- raw %} x{% endraw -%}  \n b", "{% if a %}{% endif %}\n{% if a %}{% endif %}\nx", " {% if a %} {% endif %} x", "{% if a %}\n  {% if a %}\n    deep\n  {% endif %}\n{% endif %}\n", "  {% set x = 1 %}  {{ x }}",
    "line\n    {% if a %}x{% endif %} {% if a %}y{% endif %}\n", "{{ 'a\n  b' }}\n   {% if a %}c{% endif %}", "\t{% if a %}\t{% endif %}\n", "\u00a0{% if a %}x{% endif %}", "{% if a -%}\n\n\n{% endif %}x", "x {{ a -}}\n\n {% if a %}y{% endif %}",
]

PARTS = """{% for part in message.content %}{% if part.type == 'image' %}<pic>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"""
CHAT_TEMPLATES = [
    # parts by type, image first, as the LLaVA family has it
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'] | upper + '> ' }}{% endif %}{% for x in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<pic>\n' }}{% endfor %}"
    "{% for x in m['content'] | selectattr('type', 'equalto', 'text') %}{% if m['role'] != 'assistant' %}{{ x['text'] + ' ' }}{% else %}{% generation %}{{ x['text'] + ' ' }}{% endgeneration %}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'MODEL>' }}{% endif %}",
    # turns between marks with the beginning of text, as Mistral and Llama write them
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ '[Q] ' + message['content'] + ' [/Q]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] | trim + eos_token }}{% else %}{{ raise_exception('only user and assistant roles are known') }}{% endif %}{% endfor %}",
    # a default system turn, pictures counted over the chat, as Qwen's
    "{% set count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|begin|>system\nBe kind.<|stop|>\n{% endif %}<|begin|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|stop|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}{% set count.value = count.value + 1 %}"
    "{% if add_id %}Picture {{ count.value }}: {% endif %}<|pic|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|stop|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}",
    # a colon by what comes first, as Idefics writes it
    "<go>{% for message in messages %}{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<pic>' }}{% endif %}{% endfor %}<eot>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
    # tools as JSON and calls of them, with white space control on every line
    """{%- if tools %}
    {{- '<|begin|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|stop|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|begin|>system\\n' + messages[0].content + '<|stop|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and message.content is string and not(message.content.startswith('<r>') and message.content.endswith('</r>')) %}
        {%- set ns.multi = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|begin|>' + message.role + '\\n' + content + '<|stop|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.thought is string %}
            {%- set thought = message.thought %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thought)) %}
            {{- '<|begin|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|begin|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|stop|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|begin|>user' }}
        {%- endif %}
        {{- '\\n<r>\\n' }}
        {{- content }}
        {{- '\\n</r>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|stop|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|begin|>assistant\\n' }}
{%- endif %}
""",
    # headers, macros for the parts, indented JSON, as Llama's picture models have it
    """{#- the parts of a message #}
{%- macro parts(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part.type == 'image' %}
                {{- '<|pic|>' }}
            {%- elif part.type == 'text' %}
                {{- part.text | trim }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- Find out whether there are pictures #}
{%- set seen = namespace(pictures=false) %}
{%- for message in messages %}
    {%- if message['content'] is not string %}
        {%- for content in message['content'] %}
            {%- if content['type'] == 'image' %}
                {%- set seen.pictures = true %}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if messages[0]['role'] == 'system' %}
    {%- if messages[0]['content'] is string %}
        {%- set system_message = messages[0]['content']|trim %}
    {%- else %}
        {%- set system_message = messages[0]['content'][0]['text']|trim %}
    {%- endif %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if seen.pictures and system_message != "" and strict %}
    {{- raise_exception("Pictures do not go with a system message.") }}
{%- endif %}
{%- if tools is not none %}
    {{- "Tools:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- "<|head|>system<|/head|>\\n\\n" + system_message + "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + parts(message['content']) + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at once") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- tool_call.name + "(" }}
        {%- for arg_name, arg_val in tool_call.arguments | items %}
            {{- arg_name + '="' ~ arg_val ~ '"' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- endif %}
        {%- endfor %}
        {{- ")<|eot|>" }}
    {%- else %}
        {{- '<|head|>tool<|/head|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|/head|>\\n\\n' }}
{%- endif %}
""",
    # alternation by filters, the last question apart, as newer Mistrals have it
    """{%- set today = 'a day' %}
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set users = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == users[-1]) %}
            {{- "[TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[Q] " + system_message + "\\n\\n" + message["content"] + "[/Q]" }}
        {%- else %}
            {{- "[Q] " }}
            {%- if message["content"] is string %}
                {{- message["content"] }}
            {%- else %}
                {%- for chunk in message["content"] %}
                    {%- if chunk["type"] == "text" %}{{- chunk["text"] }}{%- elif chunk["type"] in ["image", "image_url"] %}{{- "[PIC]" }}{%- else %}{{- raise_exception("what is this?") }}{%- endif %}
                {%- endfor %}
            {%- endif %}
            {{- "[/Q]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 2 %}
                {{- raise_exception("call IDs have 2 letters") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[R] {"content": ' + content|string + "}[/R]" }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    # a template without any pictures
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}",
    # the lines of a chat by join
    "{% for m in messages %}{% set texts = m.content if m.content is string else m.content | selectattr('type', 'eq', 'text') | map(attribute='text') | join(' / ') %}{{ loop.index ~ '. ' ~ texts | trim }}\n{% endfor %}",
]


def variables():
    sets = {"scalars": SCALARS}
    for name, messages in CHATS.items():
        sets[name] = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "messages": messages, "tools": None}
    sets["tools"] |= {"tools": [TOOL, TOOL]}
    sets["system"] |= {"add_id": True, "strict": False}
    sets["one"] |= {"add_generation_prompt": False}
    return sets


def render(template, values):
    try:
        return _compile_jinja_template(template).render(**values)
    except Exception:  # whatever a template can raise
        return None


def main():
    sets = json.loads(json.dumps(variables(), sort_keys=True))
    cases = [("{{ " + e.strip() + " }}", "scalars") for line in EXPRESSIONS.strip().split("\n") for e in line.split(" ### ")]
    cases += [(t, "scalars") for t in STATEMENTS + SPACES]
    cases += [(t, name) for t in CHAT_TEMPLATES for name in CHATS]
    out = [[t, name, render(t, sets[name])] for t, name in cases]
    text = ",\n".join(json.dumps(c, ensure_ascii=False) for c in out)
    with open(os.path.join(HERE, "templates.json"), "w") as f:
        f.write('{"variables": ' + json.dumps(sets, ensure_ascii=False, sort_keys=True) + ',\n"cases": [\n' + text + "\n]}\n")
    print(len(out), "cases,", sum(c[2] is None for c in out), "raise")


main()
