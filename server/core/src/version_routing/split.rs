//! Requests dealt out by weights: as even as it can be done, and the same in every process.

/// A split of requests by weights: a cycle of places, of which request number `n` takes the `n`th.
///
/// Of the first `n` requests of a cycle, each version has its share of `n` to within 1, whatever `n` is; of whole cycles exactly
/// its share. Between two versions that holds for any `n` requests in a row; among more no split can promise it for all weights,
/// and the difference is below 2.
/// Source: R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980): the version whose share is due soonest
/// goes first, among those for which it is not too early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    cycle: Box<[u8]>,
}

impl Split {
    /// The split by `weights`, in order: at most 256 of them. `None` if they are all 0.
    pub fn new(weights: &[u32]) -> Option<Self> {
        let divisor = divisor(weights);
        let weights: Vec<i64> = weights.iter().map(|&weight| i64::from(weight / divisor.max(1))).collect();
        let sum: i64 = weights.iter().sum();
        let shared = weights.iter().filter(|&&weight| weight > 0).count() as i64;
        // the bound on how far a count is from its share is 1 - 1 / scale
        let scale = (2 * shared - 2).max(1);
        let mut counts = vec![0_i64; weights.len()];
        let cycle = (1..=sum).map(|turn| {
            // how far behind its share each would be if it were passed over, times `sum`
            let behind = |place: usize, counts: &[i64]| weights[place] * turn - sum * counts[place];
            let due = (0..weights.len()).filter(|&place| weights[place] > 0 && scale * behind(place, &counts) >= sum);
            let latest = |place: usize| (scale - 1) * sum - scale * behind(place, &counts);
            let next = due.min_by(|&a, &b| (latest(a) * weights[b]).cmp(&(latest(b) * weights[a])));
            let next = next.expect("the shares that are behind add up to a whole turn");
            counts[next] += 1;
            u8::try_from(next).unwrap_or(u8::MAX)
        });
        let cycle: Box<[u8]> = cycle.collect();
        (!cycle.is_empty()).then_some(Self { cycle })
    }

    /// The place, in the order of the weights, of the version that takes request number `n`, from 0.
    pub fn pick(&self, n: u64) -> usize {
        usize::from(self.cycle[(n % self.cycle.len() as u64) as usize])
    }

    /// After how many requests it repeats.
    pub fn period(&self) -> usize {
        self.cycle.len()
    }
}

/// After how many requests a split by these weights repeats; 0 if they are all 0.
pub(super) fn period(weights: &[u32]) -> u64 {
    weights.iter().map(|&weight| u64::from(weight)).sum::<u64>() / u64::from(divisor(weights).max(1))
}

fn divisor(weights: &[u32]) -> u32 {
    weights.iter().fold(0, |mut a, &weight| {
        let mut b = weight;
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The largest distance of any count from its share, over all windows that begin at one of `starts`.
    fn worst(weights: &[u32], starts: impl Iterator<Item = usize>) -> f64 {
        let split = Split::new(weights).unwrap();
        let sum: u32 = weights.iter().sum();
        let mut worst = 0.0_f64;
        for start in starts {
            let mut counts = vec![0_u32; weights.len()];
            for n in 0..2 * split.period() {
                counts[split.pick((start + n) as u64)] += 1;
                for (count, weight) in counts.iter().zip(weights) {
                    let share = (n + 1) as f64 * f64::from(*weight) / f64::from(sum);
                    worst = worst.max((f64::from(*count) - share).abs());
                }
            }
        }
        worst
    }

    #[test]
    fn a_split_is_spread_out() {
        let text = |weights: &[u32]| -> String {
            let split = Split::new(weights).unwrap();
            (0..split.period() as u64).map(|n| char::from(b'a' + split.pick(n) as u8)).collect()
        };
        assert_eq!(text(&[1]), "a");
        assert_eq!(text(&[50, 50]), "ab");
        assert_eq!(text(&[90, 10]), "aaaaabaaaa");
        assert_eq!(text(&[0, 7]), "b");
        assert_eq!(text(&[2, 2, 0, 2]), "abd");
        assert_eq!(Split::new(&[0, 0]), None);
        assert_eq!(Split::new(&[]), None);
    }

    proptest! {
        #[test]
        fn the_first_n_requests_are_split_to_within_one(
            weights in prop::collection::vec(0_u32..300, 1..9).prop_filter("some weight", |weights| weights.iter().any(|w| *w > 0))
        ) {
            let worst = worst(&weights, std::iter::once(0));
            prop_assert!(worst < 1.0, "{worst}");
        }

        #[test]
        fn any_requests_in_a_row_are_split_to_within_one_between_two(a in 1_u32..120, b in 1_u32..120) {
            let period = Split::new(&[a, b]).unwrap().period();
            let worst = worst(&[a, b], 0..period);
            prop_assert!(worst <= 1.0, "{worst}");
        }

        #[test]
        fn any_requests_in_a_row_are_split_to_within_two(weights in prop::collection::vec(1_u32..24, 3..6)) {
            let period = Split::new(&weights).unwrap().period();
            let worst = worst(&weights, 0..period);
            prop_assert!(worst < 2.0, "{worst}");
        }

        #[test]
        fn whole_cycles_are_split_exactly(weights in prop::collection::vec(1_u32..500, 1..7), start in 0_u64..10_000) {
            let split = Split::new(&weights).unwrap();
            let mut counts = vec![0_u64; weights.len()];
            for n in 0..split.period() as u64 {
                counts[split.pick(start + n)] += 1;
            }
            let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for (count, weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(count * sum, u64::from(*weight) * split.period() as u64);
            }
        }
    }
}
