//! `[[group.rule]]`: who may be in a group, as what, and until when.

use net::config::{ConfigError, in_range};
use protocol::Authentication;
use protocol::identity::IdentityPattern;
use protocol::request::Role;
use serde::Deserialize;
use toml::value::{Datetime, Offset};

use super::group::GroupFileConfig;
use crate::core::{Access, Grant, Now, Rule};

/// Rules of one group: what a policy of single identities needs.
const MAX_RULES: usize = 10_000;

/// `[[group.rule]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFileConfig {
    /// Whom it is about: an identity, or a prefix `spiffe://domain/path/*`. Required.
    pub identity: String,
    /// Kinds of authentication for which it stands, of `certificate` and `token`; default all. A client that comes by another
    /// kind may not join.
    #[serde(default)]
    pub kinds: Option<Vec<String>>,
    /// What the members are meant to do: `sender`, `receiver` or `both` (default). A shared key cannot enforce it: data processors
    /// are told, and can look at the sender's ID number of what they receive.
    #[serde(default)]
    pub role: Option<String>,
    /// As `lease_s` of the group, for these members. Default: the group's.
    #[serde(default)]
    pub lease_s: Option<u64>,
    /// Until when they may be members, a time with its zone: `2026-12-31T00:00:00Z`. Default: for ever.
    #[serde(default)]
    pub until: Option<Datetime>,
}

/// The rules of a group, from all that it says about access.
pub(super) fn access(group: &GroupFileConfig, beacon_max_ms: u64) -> Result<Access, ConfigError> {
    let key = |field: &str| format!("group `{}`: {field}", group.name);
    if group.allow.is_none() && group.rule.is_empty() {
        let why = "nothing says who may join; expected a list, empty for nobody, or a `[[group.rule]]`";
        return Err(ConfigError::invalid(key("allow"), why));
    }
    let allowed = group.allow.iter().flatten();
    in_range(key("number of rules"), allowed.clone().count() + group.deny.len() + group.rule.len(), 0..=MAX_RULES)?;
    let lease = lease(&key("lease_s"), group.lease_s, beacon_max_ms)?;
    let list = |field: &'static str, who: &String, grant: Option<Grant>| {
        let who = IdentityPattern::parse(who).map_err(|error| ConfigError::invalid(key(field), error))?;
        Ok(Rule { who, kinds: Authentication::ALL.to_vec(), grant, place: format!("`{field}`") })
    };
    let mut rules: Vec<Rule> = Vec::new();
    for who in allowed {
        rules.push(list("allow", who, Some(Grant { lease, ..Grant::ALL }))?);
    }
    for who in &group.deny {
        rules.push(list("deny", who, None)?);
    }
    for (rule, number) in group.rule.iter().zip(1..) {
        let place = format!("rule {number}");
        rules.push(rule.check(&|field| key(&format!("{place}: {field}")), lease, beacon_max_ms, &place)?);
    }
    Access::new(rules).map_err(|contradiction| ConfigError::invalid(key("rules"), contradiction))
}

fn lease(key: &str, seconds: u64, beacon_max_ms: u64) -> Result<Option<Now>, ConfigError> {
    if seconds == 0 {
        return Ok(None);
    }
    in_range(key, seconds, 3..=31_536_000)?;
    if seconds * 1_000 < beacon_max_ms {
        let why = format!("{seconds} s is shorter than the time between two beacons, {beacon_max_ms} ms");
        return Err(ConfigError::invalid(key, why));
    }
    Ok(Some(Now::from_secs(seconds)))
}

impl RuleFileConfig {
    fn check(
        &self,
        key: &dyn Fn(&str) -> String,
        group_lease: Option<Now>,
        beacon_max_ms: u64,
        place: &str,
    ) -> Result<Rule, ConfigError> {
        let kinds = match &self.kinds {
            None => Authentication::ALL.to_vec(),
            Some(names) => {
                in_range(key("number of kinds"), names.len(), 1..=Authentication::ALL.len())?;
                let kind = |name: &String| {
                    let unknown = || ConfigError::invalid(key("kinds"), "expected `certificate`, `token`");
                    Authentication::named(name).ok_or_else(unknown)
                };
                names.iter().map(kind).collect::<Result<_, _>>()?
            }
        };
        let role = match &self.role {
            None => Role::Both,
            Some(name) => Role::named(name)
                .ok_or_else(|| ConfigError::invalid(key("role"), "expected `sender`, `receiver` or `both`"))?,
        };
        let lease = match self.lease_s {
            None => group_lease,
            Some(seconds) => lease(&key("lease_s"), seconds, beacon_max_ms)?,
        };
        let until = self.until.as_ref().map(|until| {
            let why = "expected a time from 1970 on with its zone, such as 2026-12-31T00:00:00Z";
            unix_seconds(until).ok_or_else(|| ConfigError::invalid(key("until"), why))
        });
        Ok(Rule {
            who: IdentityPattern::parse(&self.identity)
                .map_err(|error| ConfigError::invalid(key("identity"), error))?,
            kinds,
            grant: Some(Grant { role, lease, until: until.transpose()? }),
            place: place.to_owned(),
        })
    }
}

/// Seconds since 1970 of a time with a zone; a fraction of a second is cut off.
fn unix_seconds(time: &Datetime) -> Option<u64> {
    let (date, clock) = (time.date?, time.time?);
    let west = match time.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days of the proleptic Gregorian calendar, counted in years that begin with March, so that a leap day is their last.
    let (month, day) = (i64::from(date.month), i64::from(date.day));
    let year = i64::from(date.year) - i64::from(month <= 2);
    let month_from_march = (month + 9) % 12;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month_from_march * 153 + 2) / 5 + day - 1 - 719_468;
    let seconds = i64::from(clock.hour) * 3_600 + i64::from(clock.minute) * 60 + i64::from(clock.second.unwrap_or(0));
    u64::try_from(days * 86_400 + seconds - west * 60).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        let seconds = |text: &str| text.parse::<Datetime>().ok().as_ref().and_then(unix_seconds);
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T12:00:00.9Z"), Some(951_825_600));
        assert_eq!(seconds("2026-12-31T00:00:00Z"), Some(1_798_675_200));
        assert_eq!(seconds("2026-12-31T01:00:00+01:00"), Some(1_798_675_200));
        assert_eq!(seconds("2026-12-31T00:00:00"), None, "of which zone?");
        assert_eq!(seconds("2026-12-31"), None);
        assert_eq!(seconds("1960-01-01T00:00:00Z"), None);
    }
}
