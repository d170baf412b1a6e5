// The shape of an answer, as a person reads it.

const WORDS = { string: "text", integer: "whole number", number: "number", boolean: "true or false", null: "null", object: "{…}" };

/** `{"model": text, "predictions": [{...}, ...]}` of a schema of the description `told`. */
export function shapeOf(schema, told, indent = "") {
  if (schema.$ref) return shapeOf(schema.$ref.split("/").slice(1).reduce((found, part) => found[part], told), told, indent);
  if (schema.anyOf) return schema.anyOf.map((one) => shapeOf(one, told, indent)).join(" or ");
  if (schema.type === "array") return `[${shapeOf(schema.items ?? {}, told, indent)}, …]`;
  if (!schema.properties) return WORDS[schema.type] ?? "anything";
  const more = `${indent}  `;
  const rows = Object.entries(schema.properties).map(([name, one]) => `${more}"${name}": ${shapeOf(one, told, more)}`);
  return `{\n${rows.join(",\n")}\n${indent}}`;
}
