//! What templates expect of Python: JSON as its `json` module writes it, dates as `strftime` does, and methods of strings.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use super::bounds::{charge, charge_value};

/// `value | tojson`, as transformers defines it: `json.dumps` without escaping what is not ASCII.
pub(super) fn tojson(value: Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    charge_value(&value)?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?.or(indent).map(|spaces| spaces.min(64));
    let separators: Option<(String, String)> = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => {
            let part = |index: usize| pair.get_item_by_index(index).map(|part| part.to_string());
            Some((part(0)?, part(1)?))
        }
        _ => None,
    };
    options.assert_all_used()?;
    let (between, after_key) =
        separators.unwrap_or_else(|| (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()));
    let json = serde_json::to_value(&value).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("this value has no JSON: {error}"))
    })?;
    let mut writer = Writer { out: String::new(), indent, between, after_key, ascii, sorted };
    writer.value(&json, 0);
    charge(writer.out.len())?;
    Ok(writer.out)
}

struct Writer {
    out: String,
    indent: Option<usize>,
    between: String,
    after_key: String,
    ascii: bool,
    sorted: bool,
}

impl Writer {
    /// Writes a value; lists are never nested deeper than values of a template.
    fn value(&mut self, value: &Json, depth: usize) {
        match value {
            Json::String(text) => self.string(text),
            Json::Array(items) => {
                self.out.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.next(index, depth + 1);
                    self.value(item, depth + 1);
                }
                self.end(items.is_empty(), depth, ']');
            }
            Json::Object(fields) => {
                self.out.push('{');
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by_key(|(key, _)| *key);
                }
                for (index, (key, item)) in fields.iter().enumerate() {
                    self.next(index, depth + 1);
                    self.string(key);
                    self.out.push_str(&self.after_key);
                    self.value(item, depth + 1);
                }
                self.end(fields.is_empty(), depth, '}');
            }
            other => self.out.push_str(&other.to_string()),
        }
    }

    fn next(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.out.push_str(&self.between);
        }
        self.line(depth);
    }

    fn end(&mut self, empty: bool, depth: usize, mark: char) {
        if !empty {
            self.line(depth);
        }
        self.out.push(mark);
    }

    fn line(&mut self, depth: usize) {
        if let Some(spaces) = self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', spaces * depth));
        }
    }

    fn string(&mut self, text: &str) {
        let quoted = Json::from(text).to_string();
        if !self.ascii {
            self.out.push_str(&quoted);
            return;
        }
        let mut units = [0; 2];
        for c in quoted.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut units) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// Methods of Python's strings, lists and dictionaries that the engine does not have itself.
pub(super) fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    charge_value(value)?;
    let text = |index: usize| args.get(index).and_then(Value::as_str);
    if let Some(subject) = value.as_str() {
        match name {
            "replace" => replaced(subject, text(0), text(1))?,
            "format" => plain_format(subject)?,
            "join" => args.first().map_or(Ok(()), |list| joined(list, subject))?,
            // Python's newer methods.
            "removeprefix" if args.len() == 1 => {
                let prefix = text(0).unwrap_or_default();
                return Ok(subject.strip_prefix(prefix).unwrap_or(subject).into());
            }
            "removesuffix" if args.len() == 1 => {
                let suffix = text(0).unwrap_or_default();
                return Ok(subject.strip_suffix(suffix).unwrap_or(subject).into());
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Counts what replacing will make before it is made.
pub(super) fn replaced(text: &str, from: Option<&str>, to: Option<&str>) -> Result<(), Error> {
    let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
    let times = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
    charge(text.len().saturating_add(times.saturating_mul(to.len())))
}

/// Counts what joining will make before it is made.
pub(super) fn joined(list: &Value, between: &str) -> Result<(), Error> {
    charge_value(list)?;
    charge(list.len().unwrap_or(0).saturating_mul(between.len()))
}

/// Refuses formats that ask for a width: no template does, and a width is a number of bytes.
pub(super) fn plain_format(format: &str) -> Result<(), Error> {
    let wide = format.as_bytes().windows(4).any(|part| part.iter().all(u8::is_ascii_digit));
    if wide || format.contains('*') {
        return Err(Error::new(ErrorKind::InvalidOperation, "formats with large widths are refused"));
    }
    Ok(())
}

/// Counts what indenting will make before it is made. The width is the one number among the arguments, by place or by name.
pub(super) fn indented(text: &str, args: &[Value]) -> Result<(), Error> {
    let named = |arg: &Value| arg.get_attr("width").unwrap_or_default();
    let number = |arg: &Value| usize::try_from(arg.clone()).ok();
    let width = args.iter().filter_map(|arg| number(arg).or_else(|| number(&named(arg)))).max().unwrap_or(4);
    let lines = text.matches('\n').count() + 1;
    charge(text.len().saturating_add(lines.saturating_mul(width)))
}

/// `time` in seconds since 1970, UTC, written as Python's `strftime` does in the C locale.
pub(super) fn strftime(time: i64, format: &str) -> String {
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, seconds) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let weekday = (days + 4).rem_euclid(7) as usize;
    let month_name = MONTHS[month as usize - 1];
    let half = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut code = rest.next();
        let padded = code != Some('-');
        if !padded {
            code = rest.next();
        }
        let two = |number: i64| if padded { format!("{number:02}") } else { number.to_string() };
        let written = match code {
            Some('Y') => year.to_string(),
            Some('y') => two(year.rem_euclid(100)),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => DAYS[weekday].to_owned(),
            Some('a') => DAYS[weekday][..3].to_owned(),
            Some('H') => two(hour),
            Some('I') => two(half),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('j') => {
                let number = days - first_day(year) + 1;
                if padded { format!("{number:03}") } else { number.to_string() }
            }
            Some('w') => weekday.to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('z') => "+0000".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
        out.push_str(&written);
    }
    out
}

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The day of 1 January, counted from 1970-01-01.
fn first_day(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + (before.div_euclid(4) - 492) - (before.div_euclid(100) - 19)
        + (before.div_euclid(400) - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d @N`.
        for (time, expected) in [
            (0, "1970-01-01 Thu 001"),
            (951_782_400, "2000-02-29 Tue 060"),
            (1_721_952_000, "2024-07-26 Fri 208"),
            (1_735_603_199, "2024-12-30 Mon 365"),
            (1_735_603_200, "2024-12-31 Tue 366"),
            (-1, "1969-12-31 Wed 365"),
            (4_107_542_400, "2100-03-01 Mon 060"),
        ] {
            assert_eq!(strftime(time, "%Y-%m-%d %a %j"), expected);
        }
        assert_eq!(strftime(1_721_952_000, "%d %b %Y"), "26 Jul 2024");
        assert_eq!(
            strftime(1_722_000_000, "%A, %-d %B %y %H:%M:%S %I %p %% %e %F %T"),
            "Friday, 26 July 24 13:20:00 01 PM % 26 2024-07-26 13:20:00"
        );
        assert_eq!(strftime(0, "%q 100%"), "%q 100%");
    }
}
