"""Values for the chart, made from its own schema: right ones at random, and wrong ones for every place."""

import random

import jsonschema

# Texts that YAML, templates and shells trip over.
NASTY = ["a", "true", "null", "~", "1", "1e3", "0x1F", "a: b", "# a", "{a}", "[a]", "'", '"', "a\nb", "é", "-", "- a", "*a", "&a", "!a", "%a", "@a", "`", " a ", "{{ a }}", "$(A)", "a,b", "a=b", "\\", ""]


class Schema:
    def __init__(self, schema):
        self.root = schema

    def resolved(self, schema):
        while "$ref" in schema:
            schema = self.root["definitions"][schema["$ref"].rsplit("/", 1)[1]]
        return schema

    def is_valid(self, schema, value):
        whole = {**schema, "definitions": self.root["definitions"]}
        return jsonschema.Draft7Validator(whole).is_valid(value)

    def places(self, schema=None, path=()):
        """Every place a value can be at, with its schema: fields, items of lists (`0`), entries of maps (`key`)."""
        schema = self.resolved(self.root if schema is None else schema)
        if path:
            yield path, schema
        for name, inner in schema.get("properties", {}).items():
            yield from self.places(inner, (*path, name))
        if isinstance(schema.get("additionalProperties"), dict):
            yield from self.places(schema["additionalProperties"], (*path, "key"))
        if "items" in schema:
            yield from self.places(schema["items"], (*path, "0"))

    def some(self, dice, schema=None, depth=0):
        """A value that the schema takes."""
        schema = self.resolved(self.root if schema is None else schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return dice.choice(schema["enum"])
        kind = schema.get("type")
        kind = dice.choice(kind) if isinstance(kind, list) else kind
        match kind:
            case "object":
                return self._object(dice, schema, depth)
            case "array":
                most = min(schema.get("maxItems", 3), 3 if depth < 4 else 1)
                items = [self.some(dice, schema["items"], depth + 1) for _ in range(dice.randint(schema.get("minItems", 0), most))]
                return [it for at, it in enumerate(items) if it not in items[:at]] if schema.get("uniqueItems") else items
            case "boolean":
                return dice.random() < 0.5
            case "null":
                return None
            case "integer" | "number":
                return dice.randint(schema.get("minimum", -5), schema.get("maximum", schema.get("minimum", 0) + 5))
            case "string":
                texts = [it for it in NASTY + schema.get("examples", []) if self.is_valid(schema, it)]
                assert texts, f"{schema} needs examples: no text of the tests fits"
                return dice.choice(texts)
        raise AssertionError(f"{schema} says no type")

    def _object(self, dice, schema, depth):
        required = schema.get("required", [])
        likely = 0.7 if depth < 3 else 0.3
        properties = schema.get("properties", {})
        out = {name: self.some(dice, inner, depth + 1) for name, inner in properties.items() if name in required or dice.random() < likely}
        if isinstance(schema.get("additionalProperties"), dict):
            for name in dice.sample(["a", "example.com/b", "c.d"], dice.randint(0, 2)):
                out[name] = self.some(dice, schema["additionalProperties"], depth + 1)
        return out

    def right(self, seed):
        """Values as a whole that the schema takes: what several fields mean together is tried until it fits."""
        dice = random.Random(seed)
        for _ in range(200):
            values = self.some(dice)
            if self.is_valid(self.root, values):
                return values
        raise AssertionError("no values that fit were found")


def wrong_for(schema):
    """Values that are of no type that the schema takes."""
    kinds = schema.get("type", [])
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if "enum" in schema:
        return ["no such word", 7, [], {}]
    every = {"string": "junk", "integer": 7, "number": 7.5, "boolean": True, "array": ["a"], "object": {"no-such-field": 1}}
    wrong = [value for kind, value in every.items() if kind not in kinds and not (kind == "integer" and "number" in kinds)]
    if "object" in kinds and schema.get("additionalProperties") is False:
        wrong.append({"no-such-field": 1})
    return wrong


def at(path, value):
    """Values with one of them at `path`."""
    for name in reversed(path):
        value = [value] if name == "0" else {name: value}
    return value
