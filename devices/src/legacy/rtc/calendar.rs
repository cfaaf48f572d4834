//! The clock's ten bytes of time: their formats (data sheet, "Time, Calendar, and Alarm Data Modes"), and adding
//! seconds to them. The calendar is the Gregorian one.

/// Seconds in a day.
const DAY: u64 = 86_400;
/// After 400 years the calendar repeats.
const DAYS_IN_400_YEARS: u64 = 146_097;
/// The year has two bytes of two digits.
const YEARS: u64 = 10_000;
/// From the first day of the year 0 to 1970-01-01, a Thursday.
const UNIX_EPOCH: u64 = 719_528;
const THURSDAY: u64 = 4;

/// A register that matches any value in an alarm: its two upper bits are set.
const DONT_CARE: u8 = 0xc0;
const PM: u8 = 0x80;

/// How time is written in the registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    /// Binary, not BCD.
    pub(super) binary: bool,
    /// Hours from 0 to 23, not from 1 to 12 with an upper bit for PM.
    pub(super) hours_24: bool,
}

/// The ten bytes of time. Any bytes: guests write what they like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registers {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
    /// 1 is Sunday. It only counts on and does not depend on the date.
    pub(super) weekday: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    pub(super) year: u8,
    pub(super) century: u8,
}

/// The alarm's bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alarm {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
}

/// A moment of the calendar: days since the first day of the year 0, and the second of the day.
#[derive(Debug, Clone, Copy)]
struct Moment {
    days: u64,
    second: u64,
}

impl Format {
    fn encode(self, value: u64) -> u8 {
        let value = (value % 100) as u8;
        if self.binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(self, raw: u8) -> u64 {
        u64::from(if self.binary { raw } else { (raw >> 4) * 10 + (raw & 0xf) })
    }

    fn encode_hour(self, hour: u64) -> u8 {
        if self.hours_24 {
            return self.encode(hour);
        }
        let twelve = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(self, raw: u8) -> u64 {
        if self.hours_24 {
            return self.decode(raw);
        }
        let noon = if raw & PM == 0 { 0 } else { 12 };
        self.decode(raw & !PM) % 12 + noon
    }
}

impl Registers {
    /// The time this many seconds after 1970-01-01 00:00:00.
    pub(super) fn from_unix(seconds: u64, format: Format) -> Self {
        let days = seconds / DAY;
        let moment = Moment { days: UNIX_EPOCH + days, second: seconds % DAY };
        moment.registers((days + THURSDAY) % 7, format)
    }

    /// The time this many seconds later. A part that is out of range counts as the nearest one in range; a day
    /// that its month does not have is one of the next month.
    pub(super) fn later(self, seconds: u64, format: Format) -> Self {
        let start = self.moment(format);
        let second = start.second + seconds % DAY;
        let passed = seconds / DAY + second / DAY;
        let weekday = (format.decode(self.weekday).clamp(1, 7) - 1 + passed % 7) % 7;
        Moment { days: start.days + passed, second: second % DAY }.registers(weekday, format)
    }

    fn moment(self, format: Format) -> Moment {
        let decode = |raw, limit| format.decode(raw).min(limit);
        let year = decode(self.century, 99) * 100 + decode(self.year, 99);
        let month = format.decode(self.month).clamp(1, 12);
        let day = format.decode(self.day).clamp(1, 31);
        let hour = format.decode_hour(self.hour).min(23);
        Moment {
            days: days_before_year(year) + days_before_month(year, month) + day - 1,
            second: hour * 3600 + decode(self.minute, 59) * 60 + decode(self.second, 59),
        }
    }

    /// How long until the alarm: from one second to a day. Nothing if it holds a value that never comes.
    pub(super) fn until_alarm(self, alarm: Alarm, format: Format) -> Option<u64> {
        let hour = wanted(alarm.hour, 24, |hour| format.encode_hour(hour))?;
        let minute = wanted(alarm.minute, 60, |minute| format.encode(minute))?;
        let second = wanted(alarm.second, 60, |second| format.encode(second))?;
        let now = self.moment(format).second;
        let mut at = now + 1;
        // Skips hours, minutes and seconds that do not match: a few hundred turns.
        while at <= now + DAY {
            at = if !hour.matches(at / 3600 % 24) {
                (at / 3600 + 1) * 3600
            } else if !minute.matches(at / 60 % 60) {
                (at / 60 + 1) * 60
            } else if !second.matches(at % 60) {
                at + 1
            } else {
                return Some(at - now);
            };
        }
        None
    }
}

/// What one byte of an alarm waits for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Any,
    Exactly(u64),
}

impl Wanted {
    fn matches(self, value: u64) -> bool {
        match self {
            Wanted::Any => true,
            Wanted::Exactly(wanted) => wanted == value,
        }
    }
}

/// The chip compares bytes: the value, if there is one, whose byte in the register would be the alarm's.
fn wanted(raw: u8, limit: u64, encode: impl Fn(u64) -> u8) -> Option<Wanted> {
    if raw & DONT_CARE == DONT_CARE {
        return Some(Wanted::Any);
    }
    (0..limit).find(|value| encode(*value) == raw).map(Wanted::Exactly)
}

impl Moment {
    fn registers(self, weekday: u64, format: Format) -> Registers {
        let (year, month, day) = date(self.days);
        Registers {
            second: format.encode(self.second % 60),
            minute: format.encode(self.second / 60 % 60),
            hour: format.encode_hour(self.second / 3600),
            weekday: format.encode(weekday + 1),
            day: format.encode(day),
            month: format.encode(month),
            year: format.encode(year % 100),
            century: format.encode(year / 100),
        }
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from the first of the year 0 to the first of this year.
fn days_before_year(year: u64) -> u64 {
    // Of the years before this one, from 0 on: those that 4 divides, and so on.
    year * 365 + year.div_ceil(4) - year.div_ceil(100) + year.div_ceil(400)
}

/// Days from the first of this year to the first of this month (1 to 12).
fn days_before_month(year: u64, month: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_day = u64::from(month > 2 && is_leap(year));
    BEFORE[(month - 1) as usize] + leap_day
}

/// Year (0 to 9999), month and day of a day number.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days % (YEARS / 400 * DAYS_IN_400_YEARS);
    // Years have 365 days or more: this is never too early, and late by seven years at most.
    let estimate = days / 365;
    let year = (0..=estimate).rev().find(|year| days_before_year(*year) <= days).unwrap_or(0);
    let rest = days - days_before_year(year);
    let month = (1..=12).rev().find(|month| days_before_month(year, *month) <= rest).unwrap_or(1);
    (year, month, rest - days_before_month(year, month) + 1)
}
