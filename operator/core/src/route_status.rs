//! What Gateways say of the routes of a server: one that none of them takes leads nobody to it, however right it is.
//!
//! Source: Gateway API, RouteParentStatus: conditions `Accepted` and `ResolvedRefs`, one set for each parent.

use serde_json::Value;

/// The conditions that have to hold for a route to be followed.
const NEEDED: [&str; 2] = ["Accepted", "ResolvedRefs"];

/// What is wrong with a route, by what stands in its status; one sentence for each Gateway and condition. A Gateway that
/// has said nothing yet, or nothing of this generation, is not complained of.
pub fn complaints(title: &str, route: &Value) -> Vec<String> {
    let generation = &route["metadata"]["generation"];
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let complaint = |parent: &Value| {
        let name = parent["parentRef"]["name"].as_str().unwrap_or("?").to_owned();
        let conditions = parent["conditions"].as_array().cloned().unwrap_or_default().into_iter();
        let is_current = move |condition: &Value| {
            let observed = &condition["observedGeneration"];
            observed.is_null() || observed == generation
        };
        let failed = conditions.filter(is_current).filter(|condition| {
            condition["status"] == "False" && NEEDED.iter().any(|needed| condition["type"] == *needed)
        });
        failed
            .map(|condition| {
                let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
                let message: String = text("message").chars().take(256).collect();
                format!("Gateway {name} does not follow {title}: {}: {message}", text("reason"))
            })
            .collect::<Vec<_>>()
    };
    parents.flat_map(complaint).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(conditions: Value, expect: &[&str]) {
        let parents = json!([{ "parentRef": { "name": "public" }, "conditions": conditions }]);
        let route = json!({ "metadata": { "generation": 2 }, "status": { "parents": parents } });
        assert_eq!(complaints("HTTPRoute vision", &route), expect);
    }

    #[test]
    fn what_a_gateway_refuses_is_told_in_its_words() {
        let condition = |kind: &str, status: &str, generation: i64| json!({ "type": kind, "status": status, "reason": "NoMatchingParent", "message": "no listener", "observedGeneration": generation });
        check(json!([]), &[]);
        check(json!([condition("Accepted", "True", 2), condition("ResolvedRefs", "True", 2)]), &[]);
        check(
            json!([condition("Accepted", "False", 2), condition("ResolvedRefs", "True", 2)]),
            &["Gateway public does not follow HTTPRoute vision: NoMatchingParent: no listener"],
        );
        check(json!([condition("Accepted", "False", 1)]), &[]);
        check(json!([condition("Programmed", "False", 2)]), &[]);
        for junk in [
            json!({}),
            json!({ "status": { "parents": 7 } }),
            json!({ "status": { "parents": [7, { "conditions": "x" }] } }),
        ] {
            assert_eq!(complaints("HTTPRoute vision", &junk), [""; 0], "{junk}");
        }
    }
}
