//! Which of a model's idle instances runs next where instances take turns: the one whose executions, times its priority,
//! are fewest.

/// Executions of a model's instances, weighed.
#[derive(Debug, Default)]
pub struct Shares(Vec<Share>);

#[derive(Debug, Clone, Copy, Default)]
struct Share {
    priority: u64,
    spent: u64,
}

impl Shares {
    /// One more instance, which starts level with the one that has spent least.
    pub fn add(&mut self, instance: usize, priority: u64) {
        let spent = self.0.iter().filter(|share| share.priority > 0).map(|share| share.spent).min().unwrap_or(0);
        if self.0.len() <= instance {
            self.0.resize(instance + 1, Share::default());
        }
        self.0[instance] = Share { priority: priority.max(1), spent };
    }

    /// The instance ran once.
    pub fn ran(&mut self, instance: usize) {
        if let Some(share) = self.0.get_mut(instance) {
            share.spent = share.spent.saturating_add(share.priority);
        }
    }

    /// The position of the one that runs next among those that are idle and may; of several that have spent as little, the
    /// last.
    pub fn choose(&self, idle: &[usize], may_run: impl Fn(usize) -> bool) -> Option<usize> {
        let spent = |instance: usize| self.0.get(instance).map_or(0, |share| share.spent);
        let those = idle.iter().enumerate().rev().filter(|(_, instance)| may_run(**instance));
        those.min_by_key(|(_, instance)| spent(**instance)).map(|(position, _)| position)
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    /// How often each instance runs of so many times, if all are idle whenever one is chosen.
    fn turns(shares: &mut Shares, count: usize, turns: usize) -> Vec<usize> {
        let mut counts = vec![0; count];
        for _ in 0..turns {
            let idle: Vec<usize> = (0..count).collect();
            let instance = idle[shares.choose(&idle, |_| true).unwrap()];
            shares.ran(instance);
            counts[instance] += 1;
        }
        counts
    }

    #[test]
    fn instances_take_turns_by_their_priorities() {
        let mut shares = Shares::default();
        for (instance, priority) in [1, 2, 0].into_iter().enumerate() {
            shares.add(instance, priority);
        }
        assert_eq!(turns(&mut shares, 3, 50), [20, 10, 20]);
        shares.add(3, 1);
        assert_eq!(turns(&mut shares, 4, 70), [20, 10, 20, 20], "a new one is not ahead of the others");
    }

    #[test]
    fn only_those_are_chosen_that_may_run() {
        let mut shares = Shares::default();
        (0..3).for_each(|instance| shares.add(instance, 1));
        shares.ran(2);
        assert_eq!(shares.choose(&[0, 2], |instance| instance == 2), Some(1));
        assert_eq!(shares.choose(&[0, 1, 2], |_| true), Some(1));
        assert_eq!(shares.choose(&[0], |_| false), None);
        assert_eq!(shares.choose(&[], |_| true), None);
    }
}
