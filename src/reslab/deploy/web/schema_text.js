// A readable form of a JSON schema.

const TYPE_NAMES = { string: "text", integer: "whole number", number: "number", boolean: "true or false", null: "null", object: "{…}" };

/** Return a schema of the OpenAPI description `spec` as text, such as `{"model": text, "predictions": [{...}, ...]}`. */
export function schemaText(schema, spec, indent = "") {
  if (schema.$ref) return schemaText(schema.$ref.split("/").slice(1).reduce((found, part) => found[part], spec), spec, indent);
  if (schema.anyOf) return schema.anyOf.map((property) => schemaText(property, spec, indent)).join(" or ");
  if (schema.type === "array") return `[${schemaText(schema.items ?? {}, spec, indent)}, …]`;
  if (!schema.properties) return TYPE_NAMES[schema.type] ?? "anything";
  const inner = `${indent}  `;
  const rows = Object.entries(schema.properties).map(([name, property]) => `${inner}"${name}": ${schemaText(property, spec, inner)}`);
  return `{\n${rows.join(",\n")}\n${indent}}`;
}
