// The little Markdown that boards use: paragraphs, lists, headings, bold, code, links. As elements: no markup is parsed.

import { h } from "./dom.js";
import { filled, safe } from "./links.js";

export function markdown(text) {
  const blocks = [];
  for (const block of text.trim().split(/\n\s*\n/)) {
    const lines = block.split("\n").map((line) => line.trim());
    const heading = /^(#{1,4})\s+(.*)$/.exec(lines[0]);
    if (heading) {
      blocks.push(h(`h${heading[1].length + 1}`, {}, spans(heading[2])));
      lines.shift();
    }
    if (lines.length && lines.every((line) => /^[-*]\s+/.test(line))) blocks.push(h("ul", {}, lines.map((line) => h("li", {}, spans(line.replace(/^[-*]\s+/, ""))))));
    else if (lines.length) blocks.push(h("p", {}, spans(lines.join(" "))));
  }
  return blocks;
}

function spans(text) {
  const pieces = [];
  let at = 0;
  for (const match of text.matchAll(/\*\*(.+?)\*\*|`([^`]+)`|\[([^\]]+)\]\(([^)\s]+)\)|(?<![\w*])\*([^*\s][^*]*)\*/g)) {
    pieces.push(text.slice(at, match.index));
    if (match[1]) pieces.push(h("b", {}, spans(match[1])));
    else if (match[2]) pieces.push(h("code", {}, match[2]));
    else if (match[3]) pieces.push(h("a", { href: safe(filled(match[4])) }, spans(match[3])));
    else pieces.push(h("em", {}, match[5]));
    at = match.index + match[0].length;
  }
  return [...pieces, text.slice(at)];
}
