//! `day_of_month`, `hour`, `year` and their kin: parts of the date of a Unix time in seconds, in UTC (proleptic Gregorian).

use isobar_block::is_stale;

/// The functions of a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are PromQL's")]
pub enum CalendarFn {
    Minute,
    Hour,
    /// Sunday is 0.
    DayOfWeek,
    /// From 1.
    DayOfMonth,
    /// From 1.
    DayOfYear,
    DaysInMonth,
    /// January is 1.
    Month,
    Year,
}

const DAY_SECONDS: i64 = 86_400;

/// Times beyond this (some 30 million years) have no date: the result is NaN.
const LIMIT_SECONDS: f64 = 1e15;

/// Replaces each Unix time (seconds) by a part of its date; absent values stay.
pub fn calendar(f: CalendarFn, values: &mut [f64]) {
    for v in values {
        if !is_stale(*v) {
            *v = part(f, *v);
        }
    }
}

fn part(f: CalendarFn, seconds: f64) -> f64 {
    if seconds.is_nan() || seconds.abs() > LIMIT_SECONDS {
        return f64::NAN;
    }
    // Towards zero, as Prometheus converts.
    let seconds = seconds as i64;
    let (days, of_day) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
    let (year, month, day) = civil_from_days(days);
    let part = match f {
        CalendarFn::Minute => of_day / 60 % 60,
        CalendarFn::Hour => of_day / 3600,
        // 1970-01-01 was a Thursday.
        CalendarFn::DayOfWeek => (days + 4).rem_euclid(7),
        CalendarFn::DayOfMonth => day,
        CalendarFn::DayOfYear => days - days_from_civil(year, 1, 1) + 1,
        CalendarFn::DaysInMonth => {
            let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1)
        }
        CalendarFn::Month => month,
        CalendarFn::Year => year,
    };
    part as f64
}

/// Days since 1970-01-01. Years start in March here, so that leap days come last (Howard Hinnant, "chrono-compatible
/// low-level date algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01; the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = (shifted + 2) % 12 + 1;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
