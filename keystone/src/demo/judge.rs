//! Who had a right to which octets, and who read which.

use std::fs;
use std::path::Path;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::Failure;

/// Octets of the stream that were sent, or read, under the key of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Range {
    pub(super) epoch: u64,
    pub(super) from_octet: u64,
    pub(super) to_octet: u64,
}

impl Range {
    fn len(self) -> u64 {
        self.to_octet.saturating_sub(self.from_octet)
    }
}

/// What one member had a right to and what it read.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) joined_epoch: u64,
    pub(super) left_epoch: Option<u64>,
    pub(super) octets_expected: u64,
    pub(super) octets_read: u64,
    pub(super) sha256_ok: bool,
    pub(super) units_lost: u64,
    pub(super) messages_recovered: u64,
    pub(super) resyncs: u64,
    pub(super) read_after_eviction: u64,
    /// Why it is out; not a part of the table.
    #[serde(skip)]
    pub(super) evicted: bool,
}

impl Verdict {
    pub(super) fn ok(&self) -> bool {
        self.sha256_ok && self.octets_expected == self.octets_read && self.read_after_eviction == 0
    }

    /// Compares what was read with the sender's own log. A right is to whole epochs: from the one of the join to the
    /// one before the first without the member.
    pub(super) fn judge(&mut self, sent: &[Range], read: &[Range], input: &Path, output: &Path) -> Result<(), Failure> {
        let input = fs::read(input)?;
        let output = fs::read(output)?;
        let right =
            |range: &&Range| range.epoch >= self.joined_epoch && self.left_epoch.is_none_or(|left| range.epoch < left);
        let mut expected = Context::new(&SHA256);
        for range in sent.iter().filter(right) {
            let octets = usize::try_from(range.from_octet)
                .ok()
                .zip(usize::try_from(range.to_octet).ok())
                .and_then(|(from, to)| input.get(from..to));
            expected.update(octets.ok_or("the sender's log names octets that the input does not have")?);
        }
        let mut found = Context::new(&SHA256);
        found.update(&output);
        self.octets_expected = sent.iter().filter(right).map(|range| range.len()).sum();
        self.octets_read = u64::try_from(output.len())?;
        self.sha256_ok = expected.finish().as_ref() == found.finish().as_ref();
        // By the epochs under which it read, and by the octets, should the log of epochs be wrong.
        let after = |range: &&Range| self.left_epoch.is_some_and(|left| range.epoch >= left);
        self.read_after_eviction = read.iter().filter(after).map(|range| range.len()).sum();
        Ok(())
    }
}

/// Reads a log of ranges, one JSON object a line.
pub(super) fn ranges(path: &Path) -> Result<Vec<Range>, Failure> {
    let text = fs::read_to_string(path)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(joined_epoch: u64, left_epoch: Option<u64>) -> Verdict {
        Verdict {
            name: "m".into(),
            joined_epoch,
            left_epoch,
            octets_expected: 0,
            octets_read: 0,
            sha256_ok: false,
            units_lost: 0,
            messages_recovered: 0,
            resyncs: 0,
            read_after_eviction: 0,
            evicted: false,
        }
    }

    /// The stream `abcdefghij`: epoch 1 `abcd`, epoch 2 `efg`, epoch 4 `hij`.
    fn verdict(mut member: Verdict, output: &str, read: &[Range]) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let (input, read_file) = (folder.path().join("in"), folder.path().join("out"));
        fs::write(&input, "abcdefghij").unwrap();
        fs::write(&read_file, output).unwrap();
        let range = |epoch, from_octet, to_octet| Range { epoch, from_octet, to_octet };
        let sent = [range(1, 0, 4), range(2, 4, 7), range(4, 7, 10)];
        member.judge(&sent, read, &input, &read_file).unwrap();
        member
    }

    #[test]
    fn a_member_must_read_its_epochs_and_nothing_else() {
        assert!(verdict(member(2, None), "efghij", &[]).ok());
        assert!(verdict(member(2, Some(4)), "efg", &[]).ok());
        assert!(verdict(member(3, Some(4)), "", &[]).ok());
        for wrong in ["", "efghi", "defghij", "efghij!", "efghiJ"] {
            assert!(!verdict(member(2, None), wrong, &[]).ok(), "{wrong}");
        }
    }

    #[test]
    fn reading_an_epoch_after_the_eviction_is_seen_even_if_the_octets_look_right() {
        let stolen = Range { epoch: 4, from_octet: 7, to_octet: 10 };
        let verdict = verdict(member(2, Some(4)), "efg", &[stolen]);
        assert_eq!((verdict.read_after_eviction, verdict.ok()), (3, false));
    }
}
