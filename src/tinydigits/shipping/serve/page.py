"""The page at `/`: the exported one with other networks to choose from, a camera, and where the network looked.

Nothing that is drawn or photographed leaves the browser: the page calculates as exported pages do, and loads the
networks from the server.
"""

import html
import json

from tinydigits.shipping.html import description_list, drawing_page
from tinydigits.shipping.serve.networks import Network

_LEAD = '<span class="choice"><label for="model">Read while you write by</label> {select}</span>'
_TOOLS = """\
      <button type="button" id="camera">Camera</button>
      <input type="file" id="photo" accept="image/*" capture="environment" aria-label="Photograph of a digit" hidden>
"""
_CARD = """\
    <div class="explain">
      <button type="button" id="explain" aria-disabled="true">Where did it look?</button>
      <figure id="map" hidden><canvas id="looked" width="28" height="28" role="img"></canvas></figure>
      <p id="looking" class="detail"></p>
    </div>
"""
_FOOT = """\
What you draw stays in this browser: the network runs in the page.</p>
  <p>Programs send pictures to the server: <code>curl --data-binary @digit.png {host}/predict</code>. \
All of its interface: <a href="openapi.json">openapi.json</a>"""


def serve_page(networks: dict[str, Network], host: str) -> tuple[str, str]:
    """The page and its content security policy.

    Args:
        networks: Those to choose from; it begins with the first.
        host: The server's address, as the browser knows it.
    """
    first = next(iter(networks.values()))
    options = "".join(_option(network) for network in networks.values())
    select = f'<select id="model" data-first="{html.escape(first.name)}" autocomplete="off">{options}</select>'
    places = {
        "title": "Draw a digit · tinydigits",
        "lead": _LEAD.format(select=select),
        "tools": _TOOLS,
        "card": _CARD,
        "facts": description_list(_facts(first)),
        "foot": _FOOT.format(host=html.escape(host)),
    }
    text, policy = drawing_page(first.graph, places, addition="serve", connect="'self'")
    return text, f"{policy}; frame-ancestors 'none'"


def _option(network: Network) -> str:
    facts = network.facts()
    label = f"{network.name} · {facts['parameters']:,} parameters"
    proven = facts["study"] and facts["study"]["mean"]
    if proven:
        label += f" · {100 * proven:.2f} %"
    values = html.escape(json.dumps(list(_facts(network).items())))
    return f'<option value="{html.escape(network.name)}" data-facts="{values}">{html.escape(label)}</option>'


def _facts(network: Network) -> dict[str, str]:
    facts = network.facts()
    study, accuracy = facts["study"], facts["accuracy"]
    proven = "not proven"
    if study:
        proven = f"{100 * study['mean']:.2f} ± {100 * study['sd']:.2f} % over {study['n']} seeds"
    return {
        "parameters": f"{facts['parameters']:,}",
        "proven accuracy": proven,
        "of these weights": "not measured" if accuracy is None else f"{100 * accuracy:.2f} %",
        "trained on": facts["data"],
        "weights": facts["weights_sha256"][:12],
    }
