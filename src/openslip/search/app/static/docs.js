// The description of the API, drawn from /openapi.json.

import { ask } from "./api.js";
import { $, make, words } from "./dom.js";

const named = (reference) => reference.split("/").at(-1);

/** What kind of value a schema describes. */
function kind(schema) {
  if (schema.$ref) return named(schema.$ref);
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  const ends = schema.minimum === undefined ? "" : schema.maximum === undefined ? `, from ${schema.minimum}` : `, ${schema.minimum} to ${schema.maximum}`;
  return [schema.type].flat().filter(Boolean).join(" or ") + ends;
}

function table(properties) {
  return make(
    "table",
    {},
    ...Object.entries(properties).map(([name, schema]) => {
      const more = [
        schema.description,
        schema.default === undefined ? "" : `Default: ${schema.default}.`,
        schema.maxItems ? `At most ${schema.maxItems}.` : "",
        schema.maxLength ? `At most ${schema.maxLength} characters.` : "",
        schema.enum ? `One of: ${schema.enum.join(", ")}.` : "",
      ];
      return make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, kind(schema)), make("td", {}, ...words(more.filter(Boolean).join(" "))));
    }),
  );
}

function command(path, example) {
  const data = example ? ` --json '${JSON.stringify(example).replaceAll("'", "'\\''")}'` : "";
  return make("pre", {}, `curl${data} ${location.origin}${path.replace("{row}", "0")}`);
}

function operation(path, how, about) {
  const content = about.requestBody?.content["application/json"];
  const answer = about.responses["200"];
  const schema = answer.content?.["application/json"]?.schema;
  const picture = about.requestBody?.content["image/*"];
  return make(
    "section",
    {},
    make("h2", {}, make("span", { class: "how" }, how.toUpperCase()), make("code", {}, path)),
    make("p", {}, ...words(about.summary)),
    content ? make("h3", {}, "Request") : null,
    content ? table(content.schema.properties) : null,
    picture && about.description ? make("p", {}, ...words(about.description)) : null,
    make("h3", {}, "For example"),
    ...(content ? Object.values(content.examples).map((one) => command(path, one.value)) : [command(path)]),
    picture
      ? make("pre", {}, `curl -H 'Content-Type: image/jpeg' --data-binary @a.jpg '${location.origin}${path}${path === "/classify" ? "?name=dress&name=shirt" : ""}'`)
      : null,
    make("h3", {}, "Answer"),
    make("p", {}, ...words(answer.description)),
    schema?.properties ? table(schema.properties) : null,
  );
}

async function begin() {
  try {
    const described = await ask("/openapi.json");
    $("description").replaceChildren(...words(described.info.description));
    const operations = Object.entries(described.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([how, about]) => operation(path, how, about)),
    );
    const schemas = Object.entries(described.components.schemas).map(([name, schema]) =>
      make("section", {}, make("h2", { id: name }, name), make("p", {}, ...words(schema.description ?? "")), table(schema.properties)),
    );
    $("paths").replaceChildren(...operations, ...schemas);
  } catch (error) {
    $("description").textContent = error.message;
  }
}

begin();
