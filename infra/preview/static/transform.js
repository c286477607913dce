// The few of Grafana's transformations that boards use. Fields in, fields out.

const KNOWN = {
  merge: (frames) => frames,
  organize: (frames, { excludeByName = {}, renameByName = {}, indexByName = {} }) =>
    frames.map((fields) =>
      fields
        .filter((field) => !excludeByName[field.name])
        .sort((a, b) => (indexByName[a.name] ?? 1e6) - (indexByName[b.name] ?? 1e6))
        .map((field) => (renameByName[field.name] ? { ...field, name: renameByName[field.name] } : field))),
  filterFieldsByName: (frames, { include, exclude }) =>
    frames.map((fields) => fields.filter((field) => (include?.names ? include.names.includes(field.name) : !exclude?.names?.includes(field.name)))),
};

/** {frames} after all of them; {unknown} names the first that is not in the preview. */
export function transformed(frames, transformations) {
  for (const { id, options, disabled } of transformations) {
    if (disabled) continue;
    if (!KNOWN[id]) return { frames, unknown: id };
    frames = KNOWN[id](frames, options ?? {});
  }
  return { frames };
}
