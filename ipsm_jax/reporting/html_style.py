"""The look of the HTML report: style sheet and the few lines of script, with nothing loaded from elsewhere."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d2126; --soft: #6a7078; --rule: #e3e1dc;
  --accent: #b4472e; --line0: #b4472e; --line1: #2f6f9f; --shade: 0 1px 2px #0001, 0 6px 20px #0000000a; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1d2024; --ink: #e8e6e1; --soft: #989da5;
  --rule: #31353b; --accent: #ee8a6d; --line0: #ee8a6d; --line1: #7db8e4; --shade: 0 1px 2px #0006; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 44px 28px 80px; }
h1 { font-size: 32px; line-height: 1.15; letter-spacing: -.015em; font-weight: 650; margin: 0 0 8px;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; font-weight: 620; margin: 52px 0 14px; padding-top: 18px; border-top: 1px solid var(--rule); }
h3 { font-size: 14px; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
p { margin: 6px 0; } a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
code { font: 12.5px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.soft, .soft a { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 26px 0 0; }
.card, .view, .chart, .table, video { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  box-shadow: var(--shade); }
.card { padding: 14px 16px 12px; } .card b { display: block; font-size: 27px; font-weight: 620; line-height: 1.25;
  font-variant-numeric: tabular-nums; letter-spacing: -.01em; } .card span { color: var(--soft); font-size: 12.5px; }
.views { display: grid; gap: 18px; } .views.tall { grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); }
.view { padding: 14px; }
.view header { display: flex; flex-wrap: wrap; gap: 4px 18px; align-items: baseline; margin: 0 2px 10px; }
.view header span { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
.panels { display: grid; grid-template-columns: minmax(0, 1.02fr) minmax(0, 1fr); gap: 10px; }
.tiles { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px 10px; align-content: space-between; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 12.5px; padding: 3px 2px 0; }
img { display: block; width: 100%; height: auto; border-radius: 5px; }
.compare { position: relative; --at: 50%; align-self: start; }
.compare .frame { position: relative; overflow: hidden; border-radius: 6px; }
.compare .over { position: absolute; inset: 0; clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.compare .bar { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 0 1px #0004; pointer-events: none; }
.compare .bar::after { content: ""; position: absolute; top: 50%; left: 50%; width: 26px; height: 26px;
  margin: -13px 0 0 -13px; border-radius: 50%; background: #fffd; box-shadow: 0 1px 5px #0007; }
.compare .tag { position: absolute; top: 9px; padding: 1px 9px; border-radius: 20px; background: #000a; color: #fff;
  font-size: 12px; pointer-events: none; }
.compare .left { left: 9px; } .compare .right { right: 9px; }
.compare input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize; }
.compare input:focus-visible + .bar { box-shadow: 0 0 0 3px var(--accent); }
.scale { display: inline-block; vertical-align: -1px; width: 90px; height: 9px; border-radius: 3px; margin: 0 6px; }
.table { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 14px; text-align: right; border-top: 1px solid var(--rule); white-space: nowrap; }
th { font-weight: 560; color: var(--soft); font-size: 13px; } thead th { border-top: 0; }
th:first-child, td:first-child { text-align: left; } tr.mean td { font-weight: 640; }
.table.plain td { text-align: left; white-space: normal; padding: 5px 14px; }
.table.plain td:first-child { color: var(--soft); width: 220px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 12px; }
.chart { padding: 12px 12px 4px; } .chart figcaption { font-size: 13px; color: var(--ink); font-weight: 560; }
.chart svg { display: block; width: 100%; height: auto; } .chart text { font-size: 11px; fill: var(--soft);
  font-variant-numeric: tabular-nums; } .grid { stroke: var(--rule); stroke-width: 1; }
polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; } polyline.line-0 { stroke: var(--line0); }
polyline.line-1 { stroke: var(--line1); } circle.line-0 { fill: var(--line0); } circle.line-1 { fill: var(--line1); }
.key { margin-left: 12px; font-weight: 400; } .key.line-0 { color: var(--line0); } .key.line-1 { color: var(--line1); }
.key::before { content: "\\2014\\00a0"; }
video { display: block; width: auto; max-width: 100%; height: min(66vh, 620px); margin: 0 auto; background: #000; }
.tall .scale { width: 34px; margin: 0 4px; }
.photos { display: flex; flex-wrap: wrap; gap: 10px; } .photos img { height: 120px; width: auto; }
details { margin-top: 14px; } summary { cursor: pointer; color: var(--soft); }
@media (max-width: 820px) { .views.tall { grid-template-columns: minmax(0, 1fr); }
  .panels { grid-template-columns: minmax(0, 1fr); } main { padding: 28px 16px 60px; } }
"""

SCRIPT = """
for (const view of document.querySelectorAll(".view")) {
  const [photo, render] = view.querySelectorAll(".tiles img");
  view.querySelector(".over").src = photo.src; view.querySelector(".under").src = render.src;
}
for (const slider of document.querySelectorAll(".compare input"))
  slider.addEventListener("input", () => slider.parentElement.style.setProperty("--at", slider.value + "%"));
for (const video of document.querySelectorAll("video")) {
  const show = missing => { video.hidden = missing; video.nextElementSibling.hidden = !missing; };
  video.addEventListener("error", () => show(true)); video.addEventListener("loadeddata", () => show(false));
}
"""
