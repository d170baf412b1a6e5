// A line for a shell that asks the same.

const PICTURE = "photo.jpg";

/** The line that asks `way` (a route as openapi.json tells it) with these values of its parameters. */
export function curlOf(way, values, place) {
  const words = ["curl", ...bodyOf(way), ...(token() ? ["-H", '"Authorization: Bearer $TOKEN"'] : []), ...(way.path.endsWith(".png") ? ["-o", "picture.png"] : [])];
  return [...words, quoted(new URL(wayTo(way, values), place.href).href)].join(" ");
}

/** The path with its parameters, and those of the query that say more than their default. */
export function wayTo(way, values) {
  const of = (place) => (way.parameters ?? []).filter((one) => one.in === place);
  const path = of("path").reduce((path, { name }) => path.replace(`{${name}}`, encodeURIComponent(values[name])), way.path);
  const told = of("query").filter(({ name, schema }) => values[name] !== "" && values[name] !== String(schema.default ?? ""));
  const query = new URLSearchParams(told.map(({ name }) => [name, values[name]]));
  return `.${path}${told.length ? `?${query}` : ""}`;
}

function bodyOf(way) {
  const form = way.requestBody?.content["multipart/form-data"]?.schema.properties;
  if (!form) return [];
  if (form.ablation) return ["-F", `image=@${PICTURE}`, "-F", quoted(`ablation=${form.ablation.examples[0]}`)];
  return ["-H", quoted("Content-Type: image/jpeg"), "--data-binary", `@${PICTURE}`];
}

function token() {
  return sessionStorage.getItem("reslab-token");
}

/** In single quotes, as shells take it. */
function quoted(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
