//! Units to rekey messages: what is verified may still be nonsense, when a key server has signed nonsense.
//!
//! An input names units, and does not carry them:
//!
//! ```text
//! [message (1), for reassembly] message length (4) | blocks (2) | block (2) | index | s | r | payload
//! ```
//!
//! Payload 0 stands for what belongs there by the message of the seeds, any other octet for 512 of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use fec::{
    Assembly, BlockShape, Layout, MAX_BLOCK_DATA, MAX_MESSAGE, Payload, Progress, Reassembly, ReedSolomon, UNIT, Unit,
    encode,
};

/// Octets that name a unit.
const ITEM: usize = 12;
/// Units in one input at the most.
const MAX_ITEMS: usize = 256;
/// Messages in progress that a table holds.
const TABLE: usize = 3;

static CODER: LazyLock<ReedSolomon> = LazyLock::new(ReedSolomon::new);

/// A message of three blocks, and the payloads of its units.
struct Genuine {
    message: Vec<u8>,
    shapes: Vec<BlockShape>,
    payloads: BTreeMap<(u16, u8), Payload>,
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(|| {
    let message: Vec<u8> = (0..=250).cycle().take(8 * UNIT - 100).collect();
    let shapes = [(4, 2), (3, 1), (1, 2)].map(|(s, r)| BlockShape::new(s, r).unwrap()).to_vec();
    let layout = Layout::with_blocks(message.len(), shapes.clone()).unwrap();
    let blocks = encode(&message, &layout, &*CODER).unwrap();
    let units = (0..).zip(&blocks).flat_map(|(at, block)| (0..).zip(&block.units).map(move |(i, p)| ((at, i), *p)));
    Genuine { payloads: units.collect(), message, shapes }
});

/// One unit of an input.
struct Item {
    length: usize,
    blocks: u16,
    block: u16,
    index: u8,
    s: u8,
    r: u8,
    payload: Payload,
    /// Payload and place are the genuine message's.
    is_genuine: bool,
}

impl Item {
    fn read(item: &[u8; ITEM]) -> Self {
        let [l0, l1, l2, l3, n0, n1, b0, b1, index, s, r, fill] = *item;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap();
        let (blocks, block) = (u16::from_be_bytes([n0, n1]), u16::from_be_bytes([b0, b1]));
        let genuine = GENUINE.payloads.get(&(block, index)).filter(|_| fill == 0);
        let shape = GENUINE.shapes.get(usize::from(block)).map(|shape| (shape.s(), shape.r()));
        let fits = (length, blocks) == (GENUINE.message.len(), 3) && shape == Some((s, r));
        let payload = genuine.copied().unwrap_or([fill; UNIT]);
        Self { length, blocks, block, index, s, r, payload, is_genuine: fits && genuine.is_some() }
    }

    fn write(block: u16, index: u8) -> [u8; ITEM] {
        let mut out = [0; ITEM];
        let shape = GENUINE.shapes[usize::from(block)];
        out[..4].copy_from_slice(&u32::try_from(GENUINE.message.len()).unwrap().to_be_bytes());
        out[4..6].copy_from_slice(&3u16.to_be_bytes());
        out[6..8].copy_from_slice(&block.to_be_bytes());
        out[8..11].copy_from_slice(&[index, shape.s(), shape.r()]);
        out
    }

    fn unit(&self) -> Unit<'_> {
        Unit { block: self.block, index: self.index, s: self.s, r: self.r, payload: &self.payload }
    }
}

/// What must hold of a message that `last` made whole.
fn check(message: &[u8], last: &Item, only_genuine: bool) {
    assert!(message.len() == last.length && (1..=MAX_MESSAGE).contains(&last.length));
    assert!(!only_genuine || message == GENUINE.message, "genuine units make another message");
    if last.block + 1 == last.blocks && last.index + 1 == last.s {
        let padding = last.length.next_multiple_of(UNIT) - last.length;
        assert!(last.payload[UNIT - padding..].iter().all(|octet| *octet == 0), "octets after the message's end");
    }
}

/// Units of one message, as the first of them describes it. Accepted: it becomes whole. Units that are refused leave no
/// trace: what never got them says the same.
pub(super) fn assembly(data: &[u8]) -> bool {
    let mut items: Vec<Item> = data.as_chunks::<ITEM>().0.iter().take(MAX_ITEMS).map(Item::read).collect();
    let Some((length, blocks)) = items.first().map(|first| (first.length, first.blocks)) else { return false };
    let [Ok(mut assembly), Ok(mut spared)] = [(); 2].map(|()| Assembly::new(length, blocks)) else { return false };
    let units = length.div_ceil(UNIT);
    assert!((units.div_ceil(MAX_BLOCK_DATA)..=units).contains(&usize::from(blocks)));
    let (mut only_genuine, mut is_whole) = ((length, blocks) == (GENUINE.message.len(), 3), false);
    for item in &mut items {
        (item.length, item.blocks) = (length, blocks);
        let Ok(progress) = assembly.insert(item.unit(), &*CODER) else {
            assert!(!is_whole, "a whole message refuses nothing");
            continue;
        };
        assert_eq!(spared.insert(item.unit(), &*CODER).as_ref(), Ok(&progress), "a refused unit leaves a trace");
        only_genuine &= item.is_genuine;
        assert!(!is_whole || progress == Progress::Duplicate);
        if let Progress::Complete { message, recovered } = progress {
            is_whole = true;
            assert!(recovered <= units);
            check(&message, item, only_genuine);
        }
    }
    is_whole
}

/// All units, those of every second index with repair units, in any order.
pub(super) fn assembly_seeds() -> Vec<Vec<u8>> {
    let all: Vec<[u8; ITEM]> = GENUINE.payloads.keys().map(|(block, index)| Item::write(*block, *index)).collect();
    let backwards: Vec<[u8; ITEM]> = all.iter().rev().copied().collect();
    vec![all.concat(), backwards.concat()]
}

/// Units of messages named by one octet before each. Accepted: one of the messages becomes whole. Units that are refused
/// leave no trace.
pub(super) fn reassembly(data: &[u8]) -> bool {
    let (mut table, mut spared) = (Reassembly::new(TABLE), Reassembly::new(TABLE));
    let (mut tainted, mut whole) = (BTreeSet::new(), BTreeSet::new());
    for [key, item @ ..] in data.as_chunks::<{ ITEM + 1 }>().0.iter().take(MAX_ITEMS) {
        let item = Item::read(item);
        let Ok(progress) = table.insert(*key, item.length, item.blocks, item.unit()) else { continue };
        let same = spared.insert(*key, item.length, item.blocks, item.unit());
        assert_eq!(same.as_ref(), Ok(&progress), "a refused unit leaves a trace");
        if !item.is_genuine {
            tainted.insert(*key);
        }
        match progress {
            Progress::Complete { message, .. } => {
                check(&message, &item, !tainted.contains(key));
                assert!(whole.insert(*key), "a message becomes whole twice");
            }
            Progress::Incomplete => assert!(!whole.contains(key)),
            Progress::Duplicate | Progress::Stale => {}
        }
        assert!(table.in_progress().count() <= TABLE && table.in_progress().eq(spared.in_progress()));
    }
    !whole.is_empty()
}

/// As for one message, and two and five of them in turns.
pub(super) fn reassembly_seeds() -> Vec<Vec<u8>> {
    let turns = |messages: u8| {
        let units = GENUINE.payloads.keys().flat_map(|(block, index)| {
            (0..messages).map(move |key| [&[key], Item::write(*block, *index).as_slice()].concat())
        });
        units.collect::<Vec<_>>().concat()
    };
    vec![turns(1), turns(2), turns(5)]
}
