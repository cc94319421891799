"""The page around a report: layout and colours, for light and dark, wide screens and phones."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title><!--TITLE--> · report</title>
<style>
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1c2330; --soft: #5b6675; --rule: #e1e5ea; --card: #f6f7f9;
  --c0: #2563c9; --c1: #c2570c; --c2: #14805e; --c3: #8b3fb0; --c4: #a8730a; --c5: #b3265a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --ink: #e4e8ee; --soft: #9aa5b4; --rule: #2a313b; --card: #1a2028;
    --c0: #6ea8ff; --c1: #f59a55; --c2: #4cc79b; --c3: #c893ec; --c4: #e0b24c; --c5: #f07ba3;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 32px 20px 64px; max-width: 920px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei",
    "Noto Sans CJK SC", "Noto Sans SC", sans-serif;
}
h1 { margin: 0; font-size: 26px; line-height: 1.25; }
h2 { margin: 40px 0 12px; font-size: 18px; }
header p, section > p { margin: 4px 0 12px; color: var(--soft); }
small { font-size: 12px; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0 16px; }
.tiles div { display: flex; flex-direction: column; padding: 14px 16px; border-radius: 10px; background: var(--card); }
.tiles span { color: var(--soft); }
.tiles b { font-size: 28px; line-height: 1.25; font-variant-numeric: tabular-nums; }
.speed { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 0; }
.speed dt { font-size: 12px; color: var(--soft); }
.speed dd { margin: 0; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 24px; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 20px; margin-bottom: 4px; font-weight: 600; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-weight: 400; color: var(--soft); }
.legend span { display: inline-flex; align-items: center; gap: 6px; }
.legend i { width: 18px; height: 3px; border-radius: 2px; background: var(--c); }
.legend .raw i { opacity: .35; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--rule); }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
svg .line { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .line.alone { stroke: none; }
svg .line.raw { stroke-width: 1; opacity: .35; }
svg circle { fill: var(--c); }
svg.narrow { display: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.pairs th { font-weight: 400; color: var(--soft); white-space: nowrap; }
.confusion { border-collapse: separate; border-spacing: 3px; }
.confusion th, .confusion td { border: 0; padding: 8px 12px; }
.confusion tbody th { font-weight: 500; text-align: right; white-space: nowrap; }
.confusion td { min-width: 76px; border-radius: 6px; text-align: center; }
.confusion thead th { text-align: center; }
.pairs td, pre { overflow-wrap: anywhere; }
.confusion td small { display: block; color: inherit; opacity: .8; }
.right { background: color-mix(in srgb, var(--c0) calc(6% + var(--p) * 44%), transparent); }
.wrong { background: color-mix(in srgb, var(--c1) calc(3% + var(--p) * 60%), transparent); }
pre {
  margin: 0; padding: 14px 16px; border-radius: 10px; background: var(--card); white-space: pre-wrap; font-size: 13px;
}
@media (max-width: 560px) {
  body { padding: 20px 14px 40px; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  svg.wide { display: none; }
  svg.narrow { display: block; }
  table { font-size: 13px; }
  th, td { padding-right: 10px; }
  .confusion { border-spacing: 2px; }
  .confusion th, .confusion td { padding: 6px; }
  .confusion tbody th, .confusion thead th { white-space: normal; }
  .confusion td { min-width: 58px; }
}
</style>
</head>
<body>
<header><h1><!--TITLE--></h1><p><!--SUBTITLE--></p></header>
<!--BODY-->
</body>
</html>
"""
