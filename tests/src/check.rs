//! What must hold of every world that has come to its end.

use crate::world::World;

/// All of it.
pub fn all(world: &World) {
    assert_eq!(world.record.complaints, Vec::<String>::new());
    agreement(world);
    rights(world);
    secrecy(world);
    liveness(world);
}

/// All who hold the key of an epoch hold the same, and only one was ever signed.
fn agreement(world: &World) {
    for (group, record) in &world.record.groups {
        for (epoch, holders) in &record.held {
            let mut keys: Vec<_> = holders.values().collect();
            keys.dedup();
            assert_eq!(keys.len(), 1, "group {group} epoch {epoch}: {} keys", keys.len());
        }
        for (epoch, commitments) in &record.commitments {
            assert_eq!(commitments.len(), 1, "group {group} epoch {epoch} was signed with several keys");
        }
        let mut keys: Vec<_> = record.held.values().filter_map(|holders| holders.values().next()).collect();
        let epochs = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), epochs, "group {group}: two epochs share a key");
    }
}

/// Nobody holds, or was given, the key of an epoch in which it was no member.
fn rights(world: &World) {
    for (group, record) in &world.record.groups {
        for (epoch, holders) in &record.held {
            for member in holders.keys() {
                assert!(record.rights[epoch].contains(member), "group {group}: {member} holds epoch {epoch}");
            }
        }
        for (member, epoch) in &record.given_data {
            assert!(record.rights[epoch].contains(member), "group {group}: {member} was given epoch {epoch}");
        }
    }
}

/// All who have no right to an epoch, together, cannot compute its root from everything sent and given.
fn secrecy(world: &World) {
    for (group, record) in &world.record.groups {
        assert_eq!(record.broken_epochs(), Vec::<u64>::new(), "group {group}");
    }
}

/// After the faults everybody who wants to be in, and may, has the newest key.
fn liveness(world: &World) {
    for (id, name) in World::groups() {
        let position = world.position(id);
        if world.is_on_its_way(id) {
            continue;
        }
        for (number, client) in world.clients.iter().enumerate() {
            if !client.wants.contains(name) || client.evicted.contains(name) {
                continue;
            }
            let status = client.core.status().into_iter().find(|group| group.group == name);
            let at = status.as_ref().map(|group| (group.term, group.epoch));
            assert_eq!(at, Some((Some(position.0), Some(position.1))), "client {number} in {name}: {status:?}");
        }
    }
}
