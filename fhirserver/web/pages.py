"""The pages a person sees between an application and its token: sign in, choose a patient, consent, a fault, signed
out.

Plain HTML that works without scripts. Every value is escaped by the template engine.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse
from jinja2 import DictLoader, Environment

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 32rem; margin: 8vh auto; padding: 0 1rem }
h1 { font-size: 1.4rem } label { display: block; margin: .6rem 0 }
input[type=email], input[type=password], input[type=search] { display: block; width: 100%; padding: .5rem; font:
inherit; box-sizing: border-box }
button { font: inherit; padding: .5rem 1.2rem; margin: .8rem .5rem 0 0 } .fault { color: #b00020 } li { margin: .3rem 0
}
"""

_LAYOUT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style nonce="{{ nonce }}">{{ style }}</style></head>
<body><main><h1>{{ title }}</h1>
{% if fault %}<p class="fault" role="alert">{{ fault }}</p>{% endif %}
{% block body %}{% endblock %}</main></body></html>"""

_PAGES = {
    "layout": _LAYOUT,
    "sign-in": """{% extends "layout" %}{% block body %}
<p>to continue to <strong>{{ client }}</strong>{% if publisher %} by {{ publisher }}{% endif %}</p>
<form method="post" action="/oauth2/sign-in"><input type="hidden" name="csrf" value="{{ csrf }}">
<label>E-mail address <input type="email" name="email" autocomplete="username" required autofocus></label>
<label>Password <input type="password" name="password" autocomplete="current-password" required></label>
<button>Sign in</button></form>{% endblock %}""",
    "patient": """{% extends "layout" %}{% block body %}
<p><strong>{{ client }}</strong> asks about one patient. Which one?</p>
<form method="get" action="/oauth2/consent"><label>Name or identifier
<input type="search" name="find" value="{{ find }}" autofocus></label><button>Find</button></form>
<form method="post" action="/oauth2/patient"><input type="hidden" name="csrf" value="{{ csrf }}">
{% for id, label in patients %}<label><input type="radio" name="patient" value="{{ id }}" required> {{ label }}</label>
{% else %}<p>{{ "Nobody found." if find else "" }}</p>{% endfor %}
{% if patients %}<button>Continue</button>{% endif %}</form>{% endblock %}""",
    "consent": """{% extends "layout" %}{% block body %}
<p><strong>{{ client }}</strong>{% if publisher %} by {{ publisher }}{% endif %} asks you, {{ user }}, to let it do
this at <strong>{{ organization }}</strong>{% if patient %}, for the patient {{ patient }}{% endif %}:</p>
<form method="post" action="/oauth2/consent"><input type="hidden" name="csrf" value="{{ csrf }}">
<ul>{% for scope, words in scopes %}<li><label><input type="checkbox" name="scope" value="{{ scope }}" checked>
 {{ words }}</label></li>{% endfor %}</ul>
<p>Leave out what you do not want to allow. You can withdraw all of it later.</p>
<button name="decision" value="allow">Allow</button><button name="decision" value="deny">Deny</button></form>
{% endblock %}""",
    "password": """{% extends "layout" %}{% block body %}{% if link %}
<p>At least 16 characters, with a digit and a special character, none of them three times in a row.</p>
<form method="post" action="/oauth2/password"><input type="hidden" name="link" value="{{ link }}">
<label>New password <input type="password" name="password" autocomplete="new-password" required autofocus></label>
<label>Once more <input type="password" name="again" autocomplete="new-password" required></label>
<button>Set the password</button></form>{% endif %}{% endblock %}""",
    "password-set": """{% extends "layout" %}{% block body %}<p>You can sign in with it now.</p>{% endblock %}""",
    "nowhere": """{% extends "layout" %}{% block body %}
<p>The address is wrong, or the page is not there any more. <a href="/console">To the console</a></p>{% endblock %}""",
    "fault": """{% extends "layout" %}{% block body %}<p>Go back to the application and try again.</p>{% endblock %}""",
    "signed-out": """{% extends "layout" %}{% block body %}<p>You can close this window.</p>{% endblock %}""",
    "sign-out": """{% extends "layout" %}{% block body %}
<form method="post" action="/oauth2/logout"><input type="hidden" name="csrf" value="{{ csrf }}">
{% for name, value in given.items() %}<input type="hidden" name="{{ name }}" value="{{ value }}">{% endfor %}
<input type="hidden" name="post_logout_redirect_uri" value="{{ to }}"><button>Sign out</button></form>{% endblock %}""",
}
_NONE: Mapping[str, Any] = {}
_environment = Environment(loader=DictLoader(_PAGES), autoescape=True)


def page(
    name: str, title: str, *, status: int = 200, leads_to: str = "", values: Mapping[str, Any] = _NONE
) -> HttpResponse:
    """A page as an answer that no other site can frame, no cache keeps and that runs no script.

    `leads_to` is the origin that its form may lead on to, beside our own.
    """
    nonce = secrets.token_urlsafe(16)
    text = _environment.get_template(name).render(title=title, nonce=nonce, style=_STYLE, **values)
    answer = HttpResponse(text, status=status, mimetype="text/html")
    answer.headers.update(
        {
            "Content-Security-Policy": f"default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none';"
            f" frame-ancestors 'none'; form-action 'self' {leads_to}".rstrip(),
            "X-Frame-Options": "DENY",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )
    return answer
