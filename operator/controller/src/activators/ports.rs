//! Which port each server has at the activators. A port that was given back is not given out again until all others were: nodes may
//! lead requests to it for a while.

use std::collections::{HashMap, HashSet};

use operator_core::activator::SERVER_PORTS;

/// Ports in use.
#[derive(Debug, Default)]
pub(super) struct Ports {
    by_uid: HashMap<String, u16>,
    used: HashSet<u16>,
    /// How many were given out.
    turn: usize,
    is_informed: bool,
}

impl Ports {
    /// The port of a server: the one it has, or a free one; none if all are taken. `taken` is asked once: the ports that servers had
    /// when the operator started, older ones first. What somebody writes into a slice later changes nothing here.
    pub(super) fn of(&mut self, uid: &str, taken: impl FnOnce() -> Vec<(String, u16)>) -> Option<u16> {
        if !self.is_informed {
            self.is_informed = true;
            for (uid, port) in taken() {
                if SERVER_PORTS.contains(&port) && !self.by_uid.contains_key(&uid) && self.used.insert(port) {
                    self.by_uid.insert(uid, port);
                    self.turn = self.turn.max(usize::from(port - SERVER_PORTS.start()) + 1);
                }
            }
        }
        if let Some(port) = self.by_uid.get(uid) {
            return Some(*port);
        }
        let count = SERVER_PORTS.len();
        let offset = (0..count).find(|step| !self.used.contains(&at(self.turn + step)))?;
        let port = at(self.turn + offset);
        self.turn = (self.turn + offset + 1) % count;
        self.used.insert(port);
        self.by_uid.insert(uid.to_owned(), port);
        Some(port)
    }

    /// A server needs its port no more.
    pub(super) fn free(&mut self, uid: &str) {
        if let Some(port) = self.by_uid.remove(uid) {
            self.used.remove(&port);
        }
    }
}

fn at(index: usize) -> u16 {
    let offset = u16::try_from(index % SERVER_PORTS.len()).unwrap_or(0);
    SERVER_PORTS.start() + offset
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u16 = *SERVER_PORTS.start();

    #[test]
    fn each_server_has_a_port_of_its_own_and_keeps_it() {
        let mut ports = Ports::default();
        let had = || {
            let had = [("a", FIRST + 4), ("b", FIRST + 9), ("c", FIRST + 4), ("d", 22), ("a", FIRST + 7)];
            had.map(|(uid, port)| (uid.to_owned(), port)).to_vec()
        };
        let mut of = |uid: &str| ports.of(uid, had).unwrap();
        assert_eq!([of("a"), of("b")], [FIRST + 4, FIRST + 9]);
        let (c, d) = (of("c"), of("d"));
        assert_eq!([c, d], [FIRST + 10, FIRST + 11], "not one that others had");
        assert_eq!([of("c"), of("a")], [c, FIRST + 4]);
    }

    #[test]
    fn a_port_that_was_given_back_comes_last_and_there_is_an_end() {
        let mut ports = Ports::default();
        let first = ports.of("first", Vec::new).unwrap();
        ports.free("first");
        for index in 1..SERVER_PORTS.len() {
            assert_ne!(ports.of(&format!("s{index}"), Vec::new), Some(first));
        }
        assert_eq!(ports.of("again", Vec::new), Some(first));
        assert_eq!(ports.of("one too many", Vec::new), None);
        ports.free("s5");
        assert!(ports.of("one too many", Vec::new).is_some());
    }
}
