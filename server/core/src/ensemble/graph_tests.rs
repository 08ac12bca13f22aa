//! What is refused when an ensemble is loaded, word for word, and what is completed.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Member, Members, circular,
    testing::{compile, interface, members},
};

const A: &str = "name: 'a' max_batch_size: 8 input { name: 'i' data_type: TYPE_FP32 dims: 3 } \
                 output { name: 'o' data_type: TYPE_FP32 dims: 3 }";
const B: &str = "name: 'b' max_batch_size: 8 input { name: 'i' data_type: TYPE_FP32 dims: -1 } \
                 output { name: 'o' data_type: TYPE_FP32 dims: -1 }";
const IO: &str = "max_batch_size: 4 input { name: 'IN' data_type: TYPE_FP32 dims: 3 } \
                  output { name: 'OUT' data_type: TYPE_FP32 dims: 3 }";

fn chain(first: &str, second: &str) -> String {
    format!(
        "{IO} ensemble_scheduling {{ step {{ model_name: '{first}' model_version: -1 \
         input_map {{ key: 'i' value: 'IN' }} output_map {{ key: 'o' value: 'mid' }} }} \
         step {{ model_name: '{second}' model_version: -1 \
         input_map {{ key: 'i' value: 'mid' }} output_map {{ key: 'o' value: 'OUT' }} }} }}"
    )
}

#[track_caller]
fn check(text: &str, members: &Members, expect: &str) {
    let found = compile(text, members).map_or_else(|error| error.message.into_owned(), |_| String::new());
    assert_eq!(found, expect);
}

#[test]
fn models_that_are_not_there_are_named() {
    check(&chain("y", "x"), &members(&[A]), "ensemble e contains models that are not available or ambiguous: x, y");
    let failed = |reason: &str| Member::Failed { reason: reason.into() };
    let mut models = members(&[A]);
    models.insert("b".into(), failed(""));
    check(&chain("a", "b"), &models, "ensemble 'e' depends on 'b' which has no loaded version.");
    models.insert("b".into(), failed("version 1 is at UNAVAILABLE state: Internal: no;\n"));
    check(
        &chain("a", "b"),
        &models,
        "ensemble 'e' depends on 'b' which has no loaded version. Model 'b' loading failed with error: version 1 is at \
         UNAVAILABLE state: Internal: no;\n",
    );
    models.insert("b".into(), Member::Invalid { reason: "it lacks x".into() });
    check(
        &chain("a", "b"),
        &models,
        "ensemble 'e' depends on 'b' which is not valid. Model 'b' failed with error: it lacks x",
    );
    models.insert("b".into(), Member::Missing);
    check(&chain("a", "b"), &models, "ensemble e contains models that are not available or ambiguous: b");
    let wants_two = chain("a", "a").replacen("-1", "2", 1);
    check(&wants_two, &members(&[A]), "ensemble 'e' depends on 'a' whose required version 2 is not loaded.");
    assert_eq!(circular("e", "f").message, "circular dependency between ensembles: e -> ... -> f -> e");
}

#[test]
fn a_step_is_checked_against_the_version_it_wants() {
    let both = Member::Ready(BTreeMap::from([
        (1, Arc::new(interface(A, 1))),
        (2, Arc::new(interface(&A.replace("'i'", "'other'"), 2))),
    ]));
    let models = Members::from([("a".to_owned(), both)]);
    check(&chain("a", "a"), &models, "in ensemble e, ensemble tensor IN is mapping to non-existing input i in model a");
    check(&chain("a", "a").replace("-1", "1"), &models, "");
}

#[test]
fn tensors_must_fit_the_models_they_connect() {
    let models = |b: &str| members(&[A, b]);
    check(&chain("a", "b"), &models(B), "");
    check(
        &chain("a", "b"),
        &models(&B.replacen("FP32", "INT8", 1)),
        "in ensemble e, ensemble tensor mid: inconsistent data type: TYPE_FP32 is inferred from model a while TYPE_INT8 is \
         inferred from model b",
    );
    check(
        &chain("a", "b"),
        &models(&B.replacen("-1", "[ 3, 1 ]", 1)),
        "in ensemble e, ensemble tensor mid: inconsistent shape: [-1,3] is inferred from model a while [-1,3,1] is \
         inferred from model b",
    );
    check(
        &chain("a", "b"),
        &models(&B.replacen("-1", "5", 2)),
        "in ensemble e, ensemble tensor mid: inconsistent shape: [-1,3] is inferred from model a while [-1,5] is inferred \
         from model b",
    );
    check(
        &chain("a", "b"),
        &models(&B.replace("max_batch_size: 8", "max_batch_size: 2")),
        "ensemble e allows maximum batch size 4, but it contains model b which only allows maximum batch size to be 2",
    );
    // A model without a batch dimension fits if its own shape has room for the batch, or is that of one row.
    check(&chain("a", "b"), &models(&B.replace("max_batch_size: 8", "").replace("-1", "[ -1, 3 ]")), "");
    check(&chain("a", "b"), &models(&B.replace("max_batch_size: 8", "").replace("-1", "3")), "");
}

#[test]
fn inputs_and_outputs_are_mapped_once_and_by_their_names() {
    let two = "name: 'b' max_batch_size: 8 input { name: 'i' data_type: TYPE_FP32 dims: 3 } \
               input { name: 'k' data_type: TYPE_FP32 dims: 3 } \
               output { name: 'o' data_type: TYPE_FP32 dims: 3 } output { name: 'p' data_type: TYPE_FP32 dims: 3 }";
    check(
        &chain("a", "b"),
        &members(&[A, two]),
        "in ensemble e, input k in model b is not mapped to any ensemble tensors",
    );
    let optional = two.replace("'k' data_type: TYPE_FP32 dims: 3", "'k' data_type: TYPE_FP32 dims: 3 optional: true");
    check(&chain("a", "b"), &members(&[A, &optional]), "");
    check(
        &chain("a", "b").replace("key: 'o' value: 'OUT'", "key: 'q' value: 'OUT'"),
        &members(&[A, B]),
        "in ensemble e, ensemble tensor OUT is mapped from non-existing output q in model b",
    );
    let twice = chain("a", "b").replace("value: 'OUT' }", "value: 'OUT' } output_map { key: 'p' value: 'OUT' }");
    check(
        &twice,
        &members(&[A, &optional]),
        "in ensemble e, multiple outputs in model b are mapped to the same ensemble tensor OUT",
    );
}

#[test]
fn a_decoupled_step_makes_the_ensemble_decoupled_and_two_do_not_meet() {
    let decoupled = |text: &str| format!("{text} model_transaction_policy {{ decoupled: true }}");
    let (_, config, own) = compile(&chain("a", "b"), &members(&[A, B])).unwrap();
    assert!(!own.is_decoupled && config.model_transaction_policy.is_some_and(|policy| !policy.decoupled));
    let (_, config, own) = compile(&chain("a", "b"), &members(&[&decoupled(A), B])).unwrap();
    assert!(own.is_decoupled && config.model_transaction_policy.is_some_and(|policy| policy.decoupled));

    let join = "name: 'j' max_batch_size: 8 input { name: 'i' data_type: TYPE_FP32 dims: 3 } \
                input { name: 'k' data_type: TYPE_FP32 dims: 3 } output { name: 'o' data_type: TYPE_FP32 dims: 3 }";
    let text = |output: &str| {
        format!(
            "{} ensemble_scheduling {{ \
             step {{ model_name: 'a' model_version: -1 input_map {{ key: 'i' value: 'IN' }} \
                     output_map {{ key: 'o' value: 'mid' }} }} \
             step {{ model_name: 'j' model_version: -1 input_map {{ key: 'i' value: 'mid' }} \
                     input_map {{ key: 'k' value: 'IN' }} output_map {{ key: 'o' value: '{output}' }} }} \
             step {{ model_name: 'b' model_version: -1 input_map {{ key: 'i' value: '{output}' }} \
                     output_map {{ key: 'o' value: 'last' }} }} }}",
            IO.replace("'OUT'", "'last'")
        )
    };
    check(
        &text("joined"),
        &members(&[&decoupled(A), join, B]),
        "in ensemble e, step of model 'j' receives inputs originated from different decoupled models",
    );
    check(&text("joined"), &members(&[A, join, &decoupled(B)]), "");
    let side = chain("a", "b")
        .replace("output { name: 'OUT'", "output { name: 'mid' data_type: TYPE_FP32 dims: 3 } output { name: 'OUT'");
    check(
        &side,
        &members(&[A, &decoupled(B)]),
        "in ensemble e, step of model 'e' receives inputs originated from different decoupled models",
    );
}

#[test]
fn outputs_take_the_labels_of_the_model_that_gives_them() {
    let mut model = interface(B, 1);
    model.outputs[0].labels = vec![b"cat".to_vec(), b"dog".to_vec()];
    let mut models = members(&[A]);
    models.insert("b".into(), Member::Ready(BTreeMap::from([(1, Arc::new(model))])));
    let (_, _, own) = compile(&chain("a", "b"), &models).unwrap();
    assert_eq!(own.outputs[0].labels, [b"cat".to_vec(), b"dog".to_vec()]);
}
