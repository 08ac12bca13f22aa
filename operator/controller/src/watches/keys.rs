//! What each kind of object is found by, and so the servers that its events matter to.

use std::collections::BTreeSet;

use crds::{TritonModel, TritonServer};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Resource, api::DynamicObject};
use operator_core::load;

use super::store::{Guarded, Id, Store, Term};
use crate::queue::ServerKey;

/// A server is found by itself, and by whether its load has to be known.
pub(super) fn of_server(server: &Guarded<TritonServer>, _: &[Term]) -> Vec<Term> {
    let meta = server.meta();
    let key = || Some(ServerKey { namespace: meta.namespace.clone()?, name: meta.name.clone()? });
    let is_load_wanted = server.0.as_ref().is_ok_and(|server| load::is_wanted(&server.spec));
    key().map(Term::Server).into_iter().chain(is_load_wanted.then_some(Term::LoadWanted)).collect()
}

/// A model is found by the server it names and the ConfigMap its files come from. One that cannot be read is neither deleted nor
/// moved: it goes on belonging to the server it named last.
pub(super) fn of_model(model: &Guarded<TritonModel>, before: &[Term]) -> Vec<Term> {
    let namespace = model.meta().namespace.clone().unwrap_or_default();
    match &model.0 {
        Ok(model) => {
            let config_map = model.spec.source.config_map.as_ref();
            let config_map = config_map.map(|source| Term::ConfigMap(namespace, source.name.clone()));
            server_of(model).map(Term::Server).into_iter().chain(config_map).collect()
        }
        Err(invalid) => {
            let name = model.meta().name.as_deref().unwrap_or_default();
            tracing::warn!(model = name, error = %invalid, "a TritonModel cannot be read");
            let servers = before.iter().filter(|term| matches!(term, Term::Server(_))).cloned();
            servers.chain([Term::Unreadable(namespace)]).collect()
        }
    }
}

/// A pod is found by its server.
pub(super) fn of_pod(pod: &Pod, _: &[Term]) -> Vec<Term> {
    owning_server(&pod.metadata).map(Term::Server).into_iter().collect()
}

/// An object that was made for a server is found by it, and by the uid of each owner.
pub(super) fn of_object(object: &DynamicObject, _: &[Term]) -> Vec<Term> {
    let owners = object.metadata.owner_references.iter().flatten().map(|owner| Term::Owner(owner.uid.clone()));
    owning_server(&object.metadata).map(Term::Server).into_iter().chain(owners).collect()
}

/// The servers of models whose files come from a ConfigMap.
pub(super) fn config_map_users(models: &Store<Guarded<TritonModel>>, (namespace, name): &Id) -> Vec<ServerKey> {
    let models = models.find(&Term::ConfigMap(namespace.clone(), name.clone()));
    let models = models.iter().filter_map(|model| model.0.as_ref().ok());
    let keys: BTreeSet<_> = models.filter_map(server_of).collect();
    keys.into_iter().collect()
}

/// The server an object was made for: by its owner, or by its label where the owner is another object or was removed.
pub(super) fn owning_server(meta: &ObjectMeta) -> Option<ServerKey> {
    let kind = TritonServer::kind(&());
    let owner = meta.owner_references.iter().flatten().find(|owner| owner.kind == kind).map(|owner| owner.name.clone());
    let label = || meta.labels.as_ref()?.get("app.kubernetes.io/instance").cloned();
    Some(ServerKey { namespace: meta.namespace.clone()?, name: owner.or_else(label)? })
}

/// The server a model names.
fn server_of(model: &TritonModel) -> Option<ServerKey> {
    let namespace = model.metadata.namespace.clone()?;
    Some(ServerKey { namespace, name: model.spec.server_ref.name.clone() })
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::watches::store::{Facts, Note, Writer, store};

    fn models() -> (Store<Guarded<TritonModel>>, Writer<Guarded<TritonModel>>) {
        store(Facts { terms: of_model, note: |_| Note::default() })
    }

    fn model(name: &str, spec: Value) -> Guarded<TritonModel> {
        serde_json::from_value(json!({
            "apiVersion": "triton-operator.dev/v1alpha1", "kind": "TritonModel",
            "metadata": { "name": name, "namespace": "ml", "uid": name }, "spec": spec,
        }))
        .unwrap()
    }

    fn of(server: &str) -> Guarded<TritonModel> {
        model("m", json!({ "serverRef": { "name": server }, "source": {} }))
    }

    /// The servers that an event matters to.
    fn servers(writer: &mut Writer<Guarded<TritonModel>>, event: Event<Guarded<TritonModel>>) -> Vec<String> {
        let terms = writer.take(event).into_iter().flat_map(|touched| touched.terms);
        let name = |term| match term {
            Term::Server(key) => Some(key.name),
            _ => None,
        };
        terms.filter_map(name).collect()
    }

    #[test]
    fn a_model_that_moves_is_looked_after_on_both_sides() {
        let (store, mut writer) = models();
        assert_eq!(servers(&mut writer, Event::Apply(of("a"))), ["a"]);
        assert_eq!(servers(&mut writer, Event::Apply(of("a"))), ["a"]);
        assert_eq!(servers(&mut writer, Event::Apply(of("b"))), ["a", "b"]);
        assert_eq!(servers(&mut writer, Event::Delete(of("b"))), ["b"]);
        assert!(store.servers().is_empty());
    }

    #[test]
    fn a_model_that_cannot_be_read_stays_with_the_server_it_named_last() {
        let (store, mut writer) = models();
        let unreadable = || model("m", json!({ "serverRef": 7 }));
        assert!(unreadable().0.is_err());
        assert_eq!(servers(&mut writer, Event::Apply(unreadable())), [""; 0], "nobody knows which that is");
        assert_eq!(store.find(&Term::Unreadable("ml".into())).len(), 1);
        assert_eq!(servers(&mut writer, Event::Apply(of("a"))), ["a"]);
        assert_eq!(store.find(&Term::Unreadable("ml".into())).len(), 0);
        assert_eq!(servers(&mut writer, Event::Apply(unreadable())), ["a"]);
        assert_eq!(servers(&mut writer, Event::Apply(unreadable())), ["a"], "however often it is seen");
        assert_eq!(servers(&mut writer, Event::Delete(unreadable())), ["a"]);
        assert!(store.servers().is_empty());
    }

    #[test]
    fn a_config_map_leads_to_the_servers_whose_models_come_from_it() {
        let (store, mut writer) = models();
        let files = |name: &str| json!({ "configMap": { "name": name } });
        for (name, server, source) in [
            ("a", "vision", files("files")),
            ("b", "vision", files("files")),
            ("c", "speech", files("files")),
            ("d", "other", files("others")),
            ("e", "other", json!({})),
        ] {
            let spec = json!({ "serverRef": { "name": server }, "source": source });
            writer.take(Event::Apply(model(name, spec)));
        }
        let users = |name: &str, namespace: &str| -> Vec<String> {
            let id = (namespace.to_owned(), name.to_owned());
            config_map_users(&store, &id).into_iter().map(|key| key.to_string()).collect()
        };
        assert_eq!(users("files", "ml"), ["ml/speech", "ml/vision"]);
        assert_eq!(users("files", "elsewhere"), [""; 0]);
        assert_eq!(users("vision-models", "ml"), [""; 0]);
    }

    #[test]
    fn an_object_leads_to_its_server_even_without_its_owner() {
        let meta = |value| owning_server(&serde_json::from_value(value).unwrap()).map(|key| key.to_string());
        let owner = json!([{ "apiVersion": "x", "kind": "TritonServer", "name": "a", "uid": "1" }]);
        assert_eq!(meta(json!({ "namespace": "ml", "ownerReferences": owner })), Some("ml/a".into()));
        let labels = json!({ "app.kubernetes.io/instance": "b" });
        assert_eq!(meta(json!({ "namespace": "ml", "labels": labels })), Some("ml/b".into()));
        assert_eq!(meta(json!({ "namespace": "ml" })), None);
    }
}
