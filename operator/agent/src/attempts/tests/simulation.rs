//! A server that contents end while it loads them or some time after, and an agent that accuses, gives up and plans: whatever comes
//! together, the guilty are found and nobody else.

use proptest::prelude::*;

use super::*;
use crate::plan::{Inputs, Served, Step, Trials, Tries, Wanted, plan};

/// Rounds that a server has to live on with a content, and that any load takes.
const SETTLES: u32 = 5;
const LOADS: u32 = 2;

/// What a content does to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    EndsWhileLoading,
    /// So many rounds after its load, before it has settled.
    EndsAfter(u32),
}

#[derive(Debug)]
struct Machine {
    kinds: Vec<Kind>,
    /// From which round on each is wanted.
    comes: Vec<u32>,
    noted: Noted,
    loading: BTreeMap<usize, u32>,
    loaded: BTreeMap<usize, u32>,
    ends: u32,
}

fn content(number: usize) -> ContentHash {
    ContentHash::from_name(&format!("sha256-{number:064}")).unwrap()
}

impl Machine {
    fn inputs(&self, round: u32, now: Instant) -> Inputs {
        let note = |number| self.noted.contents.get(&content(number)).cloned().unwrap_or_default();
        let wanted = |number: usize| {
            let (this, former, note) = (content(number), content(number + 50), note(number));
            let is_here = self.loaded.contains_key(&number);
            let given_up = note.crashes >= CRASHES_MAX && note.open.is_none();
            let tries = Tries { count: CRASHES_MAX, last: now, is_final: true };
            let wanted = Wanted {
                staged: Some(this.clone()),
                active: Some(if is_here { this.clone() } else { former.clone() }),
                linked: Some(if is_here { this.clone() } else { former }),
                served: Served::Yes,
                is_in_trial: true,
                number: note.number,
                suspects: (note.crashes > 0 && note.open.is_none()).then(|| this.clone()).into_iter().collect(),
                loads: given_up.then_some((this, tries)).into_iter().collect(),
                is_loading: self.loading.contains_key(&number),
                ..Wanted::default()
            };
            (format!("m{number}"), wanted)
        };
        let open = self.noted.contents.iter().filter(|(_, note)| note.open.is_some());
        let open = open.map(|(content, note)| (content.clone(), note.crashes > 0)).collect();
        let come = (0..self.kinds.len()).filter(|number| self.comes[*number] <= round);
        Inputs {
            wanted: come.map(wanted).collect(),
            server_is_live: true,
            trials: Trials { open, is_starting: false },
            ..Inputs::default()
        }
    }

    fn round(&mut self, round: u32, now: Instant) {
        let kinds = self.kinds.clone();
        let ends = |(number, since): (&usize, &u32), is_loading: bool| match kinds[*number] {
            Kind::Good => false,
            Kind::EndsWhileLoading => is_loading && round > *since,
            Kind::EndsAfter(rounds) => !is_loading && round >= since + rounds,
        };
        if self.loading.iter().any(|it| ends(it, true)) || self.loaded.iter().any(|it| ends(it, false)) {
            self.ends += 1;
            for content in accused(&self.noted.contents) {
                self.noted.accuse(&content, Crash::WhileLoading);
            }
            self.noted.close_all();
            self.loading.clear();
            // what has settled is loaded again by the start
            self.loaded.retain(|number, since| kinds[*number] == Kind::Good && round >= *since + SETTLES);
            return;
        }
        for (number, _) in self.loading.extract_if(.., |_, since| round >= *since + LOADS) {
            self.loaded.insert(number, round);
        }
        for (number, since) in &self.loaded {
            if round >= since + SETTLES {
                self.noted.settle(&content(*number));
            }
        }
        for step in plan(&self.inputs(round, now), now).steps {
            let Step::Load(name, _) = step else { unreachable!("nothing else is to be done") };
            let number: usize = name[1..].parse().unwrap();
            self.noted.begin(&content(number), Some(Duration::from_secs(10)));
            self.loading.insert(number, round);
        }
    }
}

fn kinds() -> impl Strategy<Value = Vec<(Kind, u32)>> {
    let kind = prop_oneof![
        2 => Just(Kind::Good),
        1 => Just(Kind::EndsWhileLoading),
        1 => (1..SETTLES).prop_map(Kind::EndsAfter),
    ];
    prop::collection::vec((kind, 0..12_u32), 1..7)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_guilty_are_given_up_and_all_others_serve(contents in kinds()) {
        let (kinds, comes): (Vec<_>, Vec<_>) = contents.into_iter().unzip();
        let mut machine = Machine {
            kinds: kinds.clone(), comes, noted: Noted::default(),
            loading: BTreeMap::new(), loaded: BTreeMap::new(), ends: 0,
        };
        let now = Instant::now();
        (0..400).for_each(|round| machine.round(round, now));
        for (number, kind) in kinds.iter().enumerate() {
            let crashes = machine.noted.contents.get(&content(number)).map_or(0, |note| note.crashes);
            let expected = if *kind == Kind::Good { (0, true) } else { (CRASHES_MAX, false) };
            prop_assert_eq!((crashes, machine.loaded.contains_key(&number)), expected, "{} of {:?}", number, machine);
        }
        let guilty = u32::try_from(kinds.iter().filter(|kind| **kind != Kind::Good).count()).unwrap();
        prop_assert!(machine.ends <= guilty * CRASHES_MAX, "{} ends of {:?}", machine.ends, machine);
    }
}
