"""The gate's JUnit XML against the schema of a CI server, by a validator that is none of ours.

Schema    JUnit has no standard. Jenkins publishes what its xUnit plugin takes (jenkinsci/xunit-plugin, junit-10.xsd):
          below its elements and attributes as facts, as strict as it: what is not named is refused. Counts are typed
          here, which Jenkins leaves as strings. GitLab and GitHub's reporters read a subset of it.
"""

import dataclasses

import pytest

from theory.judge.gate import Check, GateReport, Result

#: Element to its attributes; a star marks those that must be there.
ATTRIBUTES = {
    "testsuites": "name time tests failures errors disabled",
    "testsuite": "name* tests* failures errors disabled skipped time timestamp hostname id package group file log url "
    "version",
    "testcase": "name* classname* assertions time status class file line group url",
    "failure": "type message",
    "error": "type message",
    "skipped": "type message",
    "property": "name* value*",
}
COUNTS = {"tests", "failures", "errors", "disabled", "skipped"}
#: Element to the elements within it, any number in any order; those of text hold text.
CHILDREN = {
    "testsuites": "testsuite",
    "testsuite": "testsuite properties testcase system-out system-err",
    "testcase": "skipped error failure system-out system-err properties",
    "properties": "property",
}
TEXT = ("failure", "error", "skipped", "system-out", "system-err")


def schema():
    lines = ['<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema">']
    for name in dict.fromkeys([*ATTRIBUTES, *CHILDREN, *TEXT]):
        mixed = "true" if name in TEXT else "false"
        lines.append(f'<xs:element name="{name}"><xs:complexType mixed="{mixed}">')
        if name in CHILDREN:
            inner = "".join(f'<xs:element ref="{child}"/>' for child in CHILDREN[name].split())
            lines.append(f'<xs:choice minOccurs="0" maxOccurs="unbounded">{inner}</xs:choice>')
        for attribute in ATTRIBUTES.get(name, "").split():
            kind = "xs:nonNegativeInteger" if attribute.rstrip("*") in COUNTS else "xs:string"
            use = "required" if attribute.endswith("*") else "optional"
            lines.append(f'<xs:attribute name="{attribute.rstrip("*")}" type="{kind}" use="{use}"/>')
        lines.append("</xs:complexType></xs:element>")
    return "\n".join([*lines, "</xs:schema>"])


@pytest.fixture(scope="module")
def validator():
    return pytest.importorskip("xmlschema").XMLSchema(schema())


def check(result, **changes):
    made = Check(
        name="price",
        rule="at most 0.1",
        result=result,
        estimate=0.05,
        interval=(0.01, 0.09),
        reason="\"<&>' \x00\x1f\ufffe χ² → ½",
        null="[0, 1] rotated",
        cost="nats <a direction>",
    )
    return dataclasses.replace(made, **changes)


def test_every_kind_of_check_is_valid(validator, tmp_path):
    checks = [check(result) for result in Result]
    checks += [check(result, estimate=None, interval=None, name="a · b") for result in Result]
    report = GateReport(checks=tuple(checks))
    report.write(junit=tmp_path / "gate.xml")
    validator.validate(str(tmp_path / "gate.xml"))
    found = validator.to_dict(str(tmp_path / "gate.xml"))
    suite = found["testsuite"][0]
    assert suite["@tests"] == 8 and suite["@failures"] == suite["@errors"] == suite["@skipped"] == 2
    GateReport(checks=()).write(junit=tmp_path / "empty.xml")
    validator.validate(str(tmp_path / "empty.xml"))


def test_the_schema_refuses_what_jenkins_refuses(validator):
    import xmlschema

    good = GateReport(checks=(check(Result.FAIL),)).junit()
    validator.validate(good)
    for old, new in (('tests="1"', 'tests="one"'), ("failure", "broken"), ("classname", "klass")):
        with pytest.raises(xmlschema.XMLSchemaValidationError):
            validator.validate(good.replace(old, new))


def test_a_report_of_a_gate_is_valid(validator, tmp_path):
    from theory.assumptions import check_matrices
    from theory.model.optimizer import MomentumSGD
    from theory.model.quadratic import Quadratic

    for rate in (0.1, 9.0):
        problem = Quadratic([3.0, 2.0, 1.0], [1.0, 2.0, 0.5])
        validator.validate(check_matrices(problem, MomentumSGD(rate, 0.5)).junit())
