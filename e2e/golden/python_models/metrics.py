"""Metrics of a model's own: families, kinds, values, what is refused, and the page they are shown on."""

from python_models.snippets import SNIPPETS, dedent, snippet

# A family lives as long as something holds it: the model's memory.
KEEP = """
def family(name, description="a description", kind=None):
    made = pb_utils.MetricFamily(name=name, description=description, kind=pb_utils.MetricFamily.COUNTER if kind is None else kind)
    model.kept.setdefault("all", []).append(made)
    return made

def metric(of, **more):
    made = of.Metric(**more)
    model.kept.setdefault("all", []).append(made)
    return made
"""


def asks(name, code):
    return snippet(name, f"{KEEP}\n{dedent(code)}")


def page(name, prefix):
    return {"name": name, "metrics": prefix}


CASES = [
    asks("kinds", "say(pb_utils.MetricFamily.COUNTER, int(pb_utils.MetricFamily.COUNTER), pb_utils.MetricFamily.GAUGE, int(pb_utils.MetricFamily.GAUGE))\nattempt(lambda: pb_utils.MetricFamily.HISTOGRAM)\nattempt(lambda: pb_utils.MetricFamily.SUMMARY)"),
    asks("a counter", """
        of = family("own_counter", "counts things")
        one = metric(of, labels={"a": "x", "b": "y"})
        say(one.value())
        one.increment(2)
        say(one.value(), type(one.value()).__name__)
        one.increment(0.5)
        say(one.value())
        attempt(lambda: one.increment(0))
        attempt(lambda: one.increment("1"))
        attempt(lambda: one.increment())
        say(one.value())
    """),
    page("page of a counter", "own_counter"),
    asks("a gauge", """
        of = family("own_gauge", "a level", pb_utils.MetricFamily.GAUGE)
        one = metric(of, labels={"k": "v"})
        say(one.value())
        one.set(5)
        one.increment(1.5)
        one.increment(-3)
        say(one.value())
        one.set(-7.25)
        say(one.value())
        attempt(lambda: one.set(float("nan")))
        say(one.value())
        one.set(1e300)
        say(one.value())
    """),
    page("page of a gauge", "own_gauge"),
    asks("a counter made less", "one = metric(family('own_less'))\nattempt(lambda: one.increment(-1))\nsay(one.value())"),
    asks("a histogram", """
        of = family("own_histogram", "sizes", pb_utils.MetricFamily.HISTOGRAM)
        one = metric(of, labels={"k": "v"}, buckets=[0.5, 1, 10])
        for value in (0.1, 0.5, 0.7, 3, 100):
            one.observe(value)
        attempt(lambda: one.observe("x"))
    """),
    page("page of a histogram", "own_histogram"),
    asks("histograms made wrongly", """
        of = family("own_histogram_two", "sizes", pb_utils.MetricFamily.HISTOGRAM)
        attempt(lambda: metric(of, labels={"k": "none"}) and None)
        attempt(lambda: metric(of, labels={"k": "empty"}, buckets=[]) and None)
        attempt(lambda: metric(of, labels={"k": "text"}, buckets=["a"]) and None)
        attempt(lambda: metric(family("own_counter_buckets"), labels={}, buckets=[1, 2]) and None)
    """),
    asks("a histogram of buckets out of order", "of = family('own_order', kind=pb_utils.MetricFamily.HISTOGRAM)\nattempt(lambda: metric(of, labels={}, buckets=[3, 1]) and None)"),
    asks("a metric without labels", "one = metric(family('own_bare'))\none.increment(1)\nsay(one.value())"),
    page("page of a metric without labels", "own_bare"),
    asks("labels", """
        of = family("own_labels")
        metric(of, labels={}).increment(1)
        metric(of, labels={"b": "2", "a": "1"}).increment(2)
        metric(of, labels={"a": "é \\\\ \\" \\n x"}).increment(3)
        metric(of, labels={"other": ""}).increment(4)
    """),
    page("page of labels", "own_labels"),
    asks("labels that are no dictionary", "of = family('own_no_labels')\nattempt(lambda: metric(of, labels='a') and None)\nattempt(lambda: metric(of, labels=[('a', 'b')]) and None)"),
    asks("the same labels twice", """
        of = family("own_twice")
        first, second = metric(of, labels={"a": "x"}), metric(of, labels={"a": "x"})
        first.increment(2)
        second.increment(3)
        say(first.value(), second.value())
    """),
    page("page of the same labels twice", "own_twice"),
    asks("the same family twice", """
        first, second = family("own_family_twice", "one"), family("own_family_twice", "one")
        metric(first, labels={"a": "x"}).increment(1)
        metric(second, labels={"a": "y"}).increment(2)
    """),
    page("page of the same family twice", "own_family_twice"),
    asks("the same family with another description", "family('own_described', 'one')\nattempt(lambda: family('own_described', 'two') and None)"),
    asks("the same family of another kind", "family('own_kind')\nattempt(lambda: family('own_kind', kind=pb_utils.MetricFamily.GAUGE) and None)"),
    asks("the name of a family of Triton's", "attempt(lambda: family('nv_inference_count') and None)"),
    asks("families made wrongly", """
        F = pb_utils.MetricFamily
        attempt(lambda: F())
        attempt(lambda: F("own_positional", "text", F.GAUGE) and None)
        attempt(lambda: F("own_default", "text") and None)
        attempt(lambda: F(name="own_number", description=3, kind=F.GAUGE) and None)
        attempt(lambda: F(name="own_kind_number", description="x", kind=1) and None)
        attempt(lambda: F(name="own_kind_text", description="x", kind="COUNTER") and None)
        attempt(lambda: F(name="own_nothing", description="x", kind=F.GAUGE, nothing=1) and None)
        attempt(lambda: F(name="own_empty", description="", kind=F.GAUGE) and None)
        attempt(lambda: pb_utils.Metric)
    """),
    asks("objects", """
        of = family("own_objects")
        one = metric(of, labels={"a": "b"})
        say(of, one)
        say(type(one).__module__, type(one).__name__, [name for name in dir(one) if not name.startswith("_")])
        attempt(lambda: setattr(of, "mine", 1))
        attempt(lambda: type(one)())
    """),
    asks("let go of a metric", """
        import gc
        of = family("own_gone")
        one = of.Metric(labels={"a": "b"})
        one.increment(1)
        del one
        gc.collect()
    """),
    page("page after a metric was let go", "own_gone"),
    asks("let go of a family", """
        import gc
        of = pb_utils.MetricFamily(name="own_family_gone", description="x", kind=pb_utils.MetricFamily.COUNTER)
        one = of.Metric(labels={"a": "b"})
        one.increment(1)
        del of
        gc.collect()
        attempt(lambda: one.increment(1))
        attempt(lambda: one.value())
    """),
    page("page after a family was let go", "own_family_gone"),
    asks("a family with a description of several lines", "metric(family('own_lines', 'one\\ntwo \\\\ é \"q\"'), labels={}).increment(1)"),
    page("page of a description of several lines", "own_lines"),
]

SCENE = {"files": {"snippets": SNIPPETS}, "flags": [], "cases": CASES}
