//! What a model that serves can follow without being opened again.

use super::ModelConfig;
use crate::version_routing;

/// The configuration without what a serving model follows as it serves: instance groups, the version policy, and how requests are
/// routed between versions. Two of the same are one model.
pub fn without_settings(config: &ModelConfig) -> ModelConfig {
    let mut fixed = ModelConfig { instance_group: Vec::new(), version_policy: None, ..config.clone() };
    fixed.parameters.retain(|key, _| !version_routing::PARAMETERS.contains(&key.as_str()));
    fixed
}

/// `config` with the settings of `newer`.
pub fn with_settings_of(config: &ModelConfig, newer: &ModelConfig) -> ModelConfig {
    let mut joined = ModelConfig {
        instance_group: newer.instance_group.clone(),
        version_policy: newer.version_policy.clone(),
        ..without_settings(config)
    };
    let settings = newer.parameters.iter().filter(|(key, _)| version_routing::PARAMETERS.contains(&key.as_str()));
    joined.parameters.extend(settings.map(|(key, value)| (key.clone(), value.clone())));
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;

    #[test]
    fn settings_are_what_differs_between_two_forms_of_one_model() {
        let config = |settings: &str, own: &str| {
            from_text(&format!("name: 'm' {settings} parameters {{ key: 'own' value {{ string_value: '{own}' }} }}"))
                .unwrap()
        };
        let weights = |weights: &str| {
            format!(
                "version_policy {{ all {{ }} }} instance_group {{ count: 2 }} \
                 parameters {{ key: 'version_weights' value {{ string_value: '{weights}' }} }}"
            )
        };
        let (plain, weighted) = (config("", "1"), config(&weights("1:1"), "1"));
        assert_eq!(without_settings(&weighted), without_settings(&plain));
        assert_ne!(without_settings(&weighted), without_settings(&config("", "2")));
        assert_eq!(with_settings_of(&plain, &config(&weights("1:2"), "3")), config(&weights("1:2"), "1"));
        assert_eq!(with_settings_of(&weighted, &plain), plain);
    }
}
