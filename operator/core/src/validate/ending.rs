//! How long the pods of a server may take to end: no longer than a day, for whoever empties a node or deletes a namespace waits for them.

use crds::TritonServer;

use super::findings::{Findings, spec};
use crate::defaults::{POD_TIME_MAX, ServerSettings};

/// Checks each time alone, and what they are together.
pub(super) fn check(server: &TritonServer, findings: &mut Findings) {
    let Some(options) = &server.spec.server else { return };
    let given = [
        ("drainDelay", options.drain_delay),
        ("drainTimeout", options.drain_timeout),
        ("exitTimeout", options.exit_timeout),
    ];
    let too_long = given.into_iter().filter_map(|(field, time)| Some((field, time?)));
    let too_long: Vec<_> = too_long.filter(|(_, time)| time.get() > POD_TIME_MAX).collect();
    let most = crds::parts::Duration(POD_TIME_MAX);
    for (field, time) in &too_long {
        let message = format!("is {time}, the most is {most}: shorten it (a node that is emptied waits for its pods)");
        findings.add(spec("server").field(field), message);
    }
    let end = ServerSettings::of(&server.spec).end();
    if too_long.is_empty() && end > POD_TIME_MAX {
        let message = format!(
            "gives a pod {} to end (the longer of drainDelay and drainTimeout, exitTimeout, and 10s), the most is {most}: shorten them (a \
             node that is emptied waits for its pods)",
            crds::parts::Duration(end)
        );
        findings.add(spec("server"), message);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::names;

    fn problems(options: &Value) -> Vec<String> {
        let server = serde_json::from_value(json!({
            "apiVersion": crds::API_VERSION, "kind": "TritonServer", "metadata": { "name": "vision" },
            "spec": { "server": options },
        }))
        .expect("a server");
        let mut findings = Findings::new(names::object(&server));
        check(&server, &mut findings);
        findings.problems.into_iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
    }

    #[test]
    fn pods_end_within_a_day() {
        for fine in [
            json!({}),
            json!({ "drainDelay": "0s", "drainTimeout": "0s", "exitTimeout": "0s" }),
            json!({ "drainTimeout": "23h59m20s" }),
            json!({ "drainDelay": "12h", "drainTimeout": "12h", "exitTimeout": "11h59m50s" }),
        ] {
            assert_eq!(problems(&fine), [""; 0], "{fine}");
        }
    }

    #[test]
    fn a_time_beyond_a_day_is_named_with_the_most() {
        for field in ["drainDelay", "drainTimeout", "exitTimeout"] {
            let expect = |time: &str| {
                format!(
                    "spec.server.{field}: is {time}, the most is 24h: shorten it (a node that is emptied waits for its pods)"
                )
            };
            assert_eq!(problems(&json!({ field: "24h1ms" })), [expect("24h1ms")]);
            assert_eq!(problems(&json!({ field: "999999999h" })), [expect("999999999h")]);
        }
        assert_eq!(problems(&json!({ "drainDelay": "25h", "drainTimeout": "25h", "exitTimeout": "25h" })).len(), 3);
    }

    #[test]
    fn together_they_are_a_day_at_most() {
        let expect = |end: &str| {
            format!(
                "spec.server: gives a pod {end} to end (the longer of drainDelay and drainTimeout, exitTimeout, and 10s), the most is \
                 24h: shorten them (a node that is emptied waits for its pods)"
            )
        };
        assert_eq!(problems(&json!({ "drainTimeout": "24h" })), [expect("24h40s")]);
        assert_eq!(problems(&json!({ "drainDelay": "24h", "exitTimeout": "24h" })), [expect("48h10s")]);
        assert_eq!(problems(&json!({ "exitTimeout": "23h59m" })), [expect("24h10s")]);
    }
}
