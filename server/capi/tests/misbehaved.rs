//! Libraries that do what the headers forbid: told so by errors, and nobody else is harmed.

mod harness;

use harness::{Directory, Served, config, directory, request, source, until, values};
use server_core::{
    backend::Backends,
    error::{Code, Error},
};

fn wrong(directory: &Directory, fault: &str) -> Result<Served, Error> {
    let parameter = format!("parameters {{ key: 'fault' value {{ string_value: '{fault}' }} }}");
    directory.load(&config("wrong", &parameter))
}

#[test]
fn errors_of_each_function_are_those_of_the_load_or_of_the_requests() {
    let directory = directory(&[("wrong", "wrong")]);
    for function in ["model_initialize", "instance_initialize"] {
        let error = wrong(&directory, function).err().expect("refused");
        assert_eq!((error.code, &*error.message), (Code::Unavailable, function));
    }
    let mut served = wrong(&directory, "execute").unwrap();
    for mut answers in served.run([request(&[1]), request(&[2])]) {
        let error = answers.next().unwrap().unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Unavailable, "execute"));
    }
    assert_eq!((served.events.counts().released, served.events.counts().failed), (2, 2));
}

#[test]
fn what_is_deleted_released_or_sent_twice_is_refused() {
    let directory = directory(&[("wrong", "wrong")]);
    let mut served = wrong(&directory, "none").unwrap();
    for round in 0..10 {
        assert_eq!(values(&served.ask(request(&[round]))), [round]);
    }
    let counts = served.events.counts();
    assert_eq!((counts.released, counts.succeeded, counts.failed), (10, 10, 0));
}

#[test]
fn requests_without_an_answer_and_responses_left_behind_end_with_an_error() {
    let directory = directory(&[("wrong", "wrong")]);
    for (fault, expected) in [
        ("no_answer", "the request was dropped without a response"),
        ("execute_with_responses", "responses were made and are left behind"),
        ("unknown_output", "unexpected inference output 'OUTPUT7' for model 'm'"),
        ("bad_error", "is no TRITONSERVER_Error: it was released or deleted before, or is a handle of something else"),
        ("no_bytes", "gave 0 bytes for output 'OUTPUT0' of type INT32 and shape [3], which has 12 bytes"),
    ] {
        let mut served = wrong(&directory, fault).unwrap();
        let error = served.ask(request(&[1])).unwrap_err();
        assert!(error.message.ends_with(expected), "{fault}: {error}");
        until("it is released", || served.events.counts().released == 1);
        assert_eq!(served.events.counts().failed, 1, "{fault}");
    }
}

#[test]
fn a_request_that_is_not_released_keeps_its_model() {
    let directory = directory(&[("wrong", "wrong")]);
    let mut served = wrong(&directory, "never_releases").unwrap();
    assert_eq!(values(&served.ask(request(&[1]))), [1]);
    assert_eq!(served.events.counts().released, 0, "an unload waits for it");
    drop((served.instance, served.model));
    assert_eq!(served.events.counts().released, 1, "the library gave it back when its model ended");
}

#[test]
fn files_that_are_no_backends_are_refused_with_the_reason() {
    let directory = directory(&[]);
    let place = directory.folder.path().join("bad");
    std::fs::create_dir(&place).unwrap();
    let find = || directory.libraries.find("bad", "", &source()).err().expect("refused").message.into_owned();
    assert_eq!(find(), "unable to find backend library for backend 'bad'");
    let file = place.join("libtriton_bad.so");
    std::fs::write(&file, "text").unwrap();
    assert!(find().starts_with("unable to load shared library: library "), "{}", find());
    let text = directory.libraries.find("../bad", "", &source()).err().expect("refused").message;
    assert_eq!(text, "unable to find backend library for backend '../bad'");
    let text = directory.libraries.find("bad", "libother.so", &source()).err().expect("refused").message;
    let places = format!("'/nonexistent/m/1' '/nonexistent/m' '{}'", place.display());
    assert_eq!(text, format!("unable to find backend library 'libother.so' for model 'm', searched: {places}"));
}

#[test]
fn every_function_refuses_to_be_called_with_nothing() {
    let directory = directory(&[("nulls", "nulls")]);
    let mut served = directory.load(&config("nulls", "")).unwrap();
    assert_eq!(served.ask(request(&[1])).unwrap_err().message, "all refused");
}

#[test]
fn what_lies_at_the_edge_of_the_headers_is_given_or_refused_and_harms_nobody() {
    let directory = directory(&[("edges", "edges")]);
    let mut served = directory.load(&config("edges", "")).unwrap();
    for numbers in [&[][..], &[1, 2, 3]] {
        assert_eq!(values(&served.ask(request(numbers))), numbers);
    }
}

#[test]
fn many_threads_may_use_the_same_objects_and_each_of_them_ends_once() {
    let directory = directory(&[("storm", "storm")]);
    let mut served = directory.load(&config("storm", "model_transaction_policy { decoupled: true }")).unwrap();
    for mut answers in served.run([request(&[1]), request(&[2]), request(&[3])]) {
        let got = std::iter::from_fn(|| answers.next()).filter(|answer| answer.is_ok()).count();
        assert!(got >= 200, "each of ten threads has sent twenty, and {got} came");
    }
    let counts = served.events.counts();
    assert_eq!((counts.released, counts.succeeded, counts.failed), (3, 3, 0));
}

#[test]
fn a_library_may_be_late_even_for_its_own_end() {
    let directory = directory(&[("late", "late")]);
    let mut served = directory.load(&config("late", "")).unwrap();
    let mut answers = served.run([request(&[1, 2])]).remove(0);
    drop((served.instance, served.model)); // a server waits for what is released; a library that stays is not harmed
    assert_eq!(values(&answers.next().unwrap()), [1, 2]);
    until("it is released", || served.events.counts().released == 1);
}
