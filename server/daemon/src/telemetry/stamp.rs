//! A moment as years, months, days and so on, in UTC. Given the time, it never asks for it.

use std::time::Duration;

/// A moment of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) year: u64,
    pub(super) month: u64,
    pub(super) day: u64,
    pub(super) hour: u64,
    pub(super) minute: u64,
    pub(super) second: u64,
    pub(super) micros: u32,
}

impl Stamp {
    /// The calendar's name for a time since 1970-01-01T00:00:00Z.
    ///
    /// Source: Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`.
    pub(super) const fn from_epoch(since: Duration) -> Self {
        let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Eras of 400 years that begin in March, so that the leap day comes last.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + if month <= 2 { 1 } else { 0 },
            month,
            day: day_of_year - (153 * march_month + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
            micros: since.subsec_micros(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, expect: (u64, u64, u64, u64, u64, u64)) {
        let s = Stamp::from_epoch(Duration::from_secs(seconds));
        assert_eq!((s.year, s.month, s.day, s.hour, s.minute, s.second), expect);
    }

    #[test]
    fn days_have_their_calendar_names() {
        check(0, (1970, 1, 1, 0, 0, 0));
        check(951_782_400, (2000, 2, 29, 0, 0, 0));
        check(951_868_800, (2000, 3, 1, 0, 0, 0));
        check(1_795_222_095, (2026, 11, 21, 0, 48, 15));
        check(1_735_689_599, (2024, 12, 31, 23, 59, 59));
        check(4_107_542_400, (2100, 3, 1, 0, 0, 0));
    }
}
