//! The rows that a restore writes into a live cluster, and their places.

use backup::Backup;
use bytes::Bytes;
use kv_client::prefix_end;

use super::checkpoint::Record;
use crate::backup_cmd::shown_family;
use crate::failure::Failure;
use crate::restore_cmd::RestoreArgs;
use crate::text::{Notation, to_hex};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The family; an empty name is the default one.
    pub family: String,
    /// The keys of the backup: `begin <= key < end`.
    pub begin: Bytes,
    pub end: Bytes,
    /// All of these keys begin with it.
    pub remove_prefix: Bytes,
    pub add_prefix: Bytes,
    pub overwrite: bool,
}

impl Plan {
    pub fn of(args: &RestoreArgs, backup: &Backup) -> Result<Plan, Failure> {
        let live = &args.live;
        let notation = if live.hex { Notation::Hex } else { Notation::Plain };
        let prefix = |flag: &str, given: &Option<std::ffi::OsString>| match given {
            Some(given) => notation.argument(flag, given).map(Bytes::from),
            None => Ok(Bytes::new()),
        };
        let remove_prefix = prefix("--remove-prefix", &live.remove_prefix)?;
        let add_prefix = prefix("--add-prefix", &live.add_prefix)?;
        let (begin, end) = match live.range.as_deref() {
            Some([begin, end]) => (notation.argument("A", begin)?.into(), notation.argument("B", end)?.into()),
            _ => (remove_prefix.clone(), prefix_end(remove_prefix.clone())),
        };
        let family = live.family.clone().unwrap_or_default();
        let family = if family == kv_api::DEFAULT_COLUMN_FAMILY { String::new() } else { family };
        let plan = Plan { family, begin, end, remove_prefix, add_prefix, overwrite: live.overwrite };
        plan.check(backup)?;
        Ok(plan)
    }

    fn check(&self, backup: &Backup) -> Result<(), Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        if self.begin >= self.end {
            return usage("--range A B: A must be less than B, and nothing is between them".to_string());
        }
        let prefix_end = prefix_end(self.remove_prefix.clone());
        if !self.begin.starts_with(&self.remove_prefix) || self.end > prefix_end {
            return usage(
                "--remove-prefix: all keys of the range must begin with it; without --range, these are the range"
                    .to_string(),
            );
        }
        let content = backup.content().expect("it was unlocked");
        if !content.families.iter().any(|family| family.name == self.family) {
            let known: Vec<&str> = content.families.iter().map(|family| shown_family(&family.name)).collect();
            return usage(format!(
                "the backup has no family `{}`; it has {}",
                shown_family(&self.family),
                known.join(", ")
            ));
        }
        // A partial backup does not know what the cluster held outside of it.
        let outside = content.begin.as_ref().is_some_and(|begin| self.begin < *begin)
            || content.end.as_ref().is_some_and(|end| self.end > *end);
        if outside && self.overwrite {
            return usage(
                "the backup was made of a smaller range than this one, and --overwrite would remove the rest: give its range, \
                 which `synodkv backup describe` shows"
                    .to_string(),
            );
        }
        Ok(())
    }

    /// The key that a key of the backup gets, also for the end of the range.
    pub fn place(&self, key: &Bytes) -> Bytes {
        match key.strip_prefix(&self.remove_prefix[..]) {
            Some(_) if self.remove_prefix.is_empty() && self.add_prefix.is_empty() => key.clone(),
            // The end of all keys is behind every prefix.
            Some(_) if self.remove_prefix.is_empty() && *key == prefix_end("") => prefix_end(self.add_prefix.clone()),
            Some(rest) => [&self.add_prefix[..], rest].concat().into(),
            None => prefix_end(self.add_prefix.clone()),
        }
    }

    /// The range in the cluster.
    pub fn destination(&self) -> (Bytes, Bytes) {
        (self.place(&self.begin), self.place(&self.end))
    }

    /// The subject of this restore, which is also that of its checkpoint.
    pub fn record(&self, backup: &Backup) -> Record {
        Record {
            backup: backup.summary().backup.clone(),
            family: shown_family(&self.family).to_string(),
            begin: to_hex(&self.begin),
            // The end of all keys is longer than every key.
            end: if self.end == prefix_end("") { "all".to_string() } else { to_hex(&self.end) },
            remove_prefix: to_hex(&self.remove_prefix),
            add_prefix: to_hex(&self.add_prefix),
            overwrite: self.overwrite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(begin: &str, end: &Bytes, remove: &str, add: &str) -> Plan {
        Plan {
            family: String::new(),
            begin: Bytes::copy_from_slice(begin.as_bytes()),
            end: end.clone(),
            remove_prefix: Bytes::copy_from_slice(remove.as_bytes()),
            add_prefix: Bytes::copy_from_slice(add.as_bytes()),
            overwrite: true,
        }
    }

    #[test]
    fn keys_and_ends_get_their_places() {
        let key = |text: &'static str| Bytes::from_static(text.as_bytes());
        let moved = plan("a/", &prefix_end("a/"), "a/", "b/");
        assert_eq!(moved.place(&key("a/x")), "b/x");
        assert_eq!(moved.destination(), (key("b/"), prefix_end("b/")));
        let part = plan("a/c", &key("a/d"), "a/", "");
        assert_eq!(part.destination(), (key("c"), key("d")));
        let bare = plan("a/", &prefix_end("a/"), "a/", "");
        assert_eq!(bare.destination(), (key(""), prefix_end("")));
        let all = plan("", &prefix_end(""), "", "old/");
        assert_eq!(all.destination(), (key("old/"), prefix_end("old/")));
        let same = plan("", &prefix_end(""), "", "");
        assert_eq!(same.destination(), (key(""), prefix_end("")));
    }

    #[test]
    fn the_order_of_keys_stays() {
        let plan = plan("a/", &prefix_end("a/"), "a/", "b/");
        let keys = ["a/", "a/\0", "a/a", "a/b", "a/\u{7f}"].map(|key| Bytes::copy_from_slice(key.as_bytes()));
        let placed: Vec<Bytes> = keys.iter().chain([&plan.end]).map(|key| plan.place(key)).collect();
        assert!(placed.is_sorted(), "{placed:?}");
    }
}
