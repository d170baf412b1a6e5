// The curl command of an API request.

const IMAGE_FILE = "photo.jpg";

/** Return the curl command that calls `route` (an operation of openapi.json) with these parameter values. */
export function curlCommand(route, values, base) {
  const parts = ["curl", ...bodyArguments(route), ...(token() ? ["-H", '"Authorization: Bearer $TOKEN"'] : []), ...(route.path.endsWith(".png") ? ["-o", "image.png"] : [])];
  return [...parts, quote(new URL(routeUrl(route, values), base.href).href)].join(" ");
}

/** Return the relative URL with the path's parameters and the query parameters that differ from their defaults. */
export function routeUrl(route, values) {
  const of = (location) => (route.parameters ?? []).filter((one) => one.in === location);
  const path = of("path").reduce((path, { name }) => path.replace(`{${name}}`, encodeURIComponent(values[name])), route.path);
  const given = of("query").filter(({ name, schema }) => values[name] !== "" && values[name] !== String(schema.default ?? ""));
  const query = new URLSearchParams(given.map(({ name }) => [name, values[name]]));
  return `.${path}${given.length ? `?${query}` : ""}`;
}

function bodyArguments(route) {
  const form = route.requestBody?.content["multipart/form-data"]?.schema.properties;
  if (!form) return [];
  if (form.ablation) return ["-F", `image=@${IMAGE_FILE}`, "-F", quote(`ablation=${form.ablation.examples[0]}`)];
  return ["-H", quote("Content-Type: image/jpeg"), "--data-binary", `@${IMAGE_FILE}`];
}

function token() {
  return sessionStorage.getItem("reslab-token");
}

/** Quote a text for the shell. */
function quote(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
