//! Iterative sequences: requests that their model takes again until it ends them.

use super::*;

#[test]
fn an_iterative_request_is_a_sequence_that_its_model_ends() {
    both_iterative(|bench, iterate| {
        let plain = |name| Asked { sequence: None, ..asked(name, 1, "") };
        for name in 1..=5 {
            bench.push(0, plain(name), None).unwrap();
        }
        assert_eq!(bench.look(0).1, "1S 2S 3S 4S", "the fifth waits for a slot");
        for name in [2, 3, 4] {
            bench.end(0, name);
        }
        iterate(bench, 1);
        assert_eq!(bench.len(), 2);
        let (_, batch, _) = bench.look(0);
        let mut words: Vec<&str> = batch.split(' ').filter(|word| *word != "-").collect();
        words.sort_unstable();
        assert_eq!(words, ["1", "5S"], "one goes on, and does not start again");
    });
}

#[test]
fn an_iterative_request_that_names_its_sequence_has_to_start_it() {
    both_iterative(|bench, _| {
        let text = "inference request for sequence 7 to model 'm' must specify the START flag on the first request of the \
                    sequence";
        for _ in 0..2 {
            assert_eq!(bench.push(0, asked(1, 7, ""), None).unwrap_err(), text);
            bench.push(0, asked(2, 7, "S"), None).unwrap();
            assert_eq!(bench.run_all(0), [2]);
        }
        assert_eq!(bench.push(0, asked(3, 7, "E"), None).unwrap_err(), text, "the model ended it");
        bench.push(0, asked(4, 0, ""), None).unwrap();
        assert_eq!(bench.run_all(0), [4], "it names none");
    });
}

fn both_iterative(question: impl Fn(&mut dyn Ask, &dyn Fn(&mut dyn Ask, u32))) {
    struct Iterative<P>(Bench<P>, std::collections::BTreeMap<u32, Asked>);
    impl<P: Policy<Asked>> Ask for Iterative<P> {
        fn push(&mut self, at: u64, item: Asked, timeout: Option<u64>) -> Result<Option<u64>, String> {
            self.1.insert(item.name, item.clone());
            self.0.push(at, item, timeout)
        }
        fn look(&mut self, at: u64) -> (Decision, String, Vec<(u32, Removal)>) {
            self.0.look(at, 0)
        }
        fn end(&mut self, at: u64, name: u32) {
            self.0.end(at, name);
        }
        fn sweep(&mut self, name: u64) -> Vec<(u32, Removal)> {
            self.0.put_back(name as u32, self.1[&(name as u32)].clone());
            Vec::new()
        }
        fn close(&mut self, at: u64) {
            self.0.policy.close(self.0.start + ms(at));
        }
        fn len(&self) -> usize {
            self.0.policy.len()
        }
        fn run_all(&mut self, at: u64) -> Vec<u32> {
            self.0.run_all(at, 1, &mut Vec::new())
        }
    }
    let put_back = |bench: &mut dyn Ask, name: u32| drop(bench.sweep(u64::from(name)));
    question(&mut Iterative(direct("direct { } iterative_sequence: true", 1), Default::default()), &put_back);
    let of_oldest = oldest("oldest { max_candidate_sequences: 4 } iterative_sequence: true", 1);
    question(&mut Iterative(of_oldest, Default::default()), &put_back);
}

#[test]
fn a_model_that_is_not_iterative_gets_no_request_again() {
    let mut bench = direct(DIRECT, 1);
    bench.pushes(0, [asked(1, 1, "S")]);
    bench.check(0, 0, "1S");
    assert!(bench.policy.put_back(asked(1, 1, "S"), bench.start).is_err());
}
