//! Time that leaps and time that goes back.

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[test]
fn a_clock_that_goes_back_ends_no_key_early_and_asks_for_nothing() {
    let (mut client, mut server) = Client::member(4, 9);
    for _ in 0..6 {
        client.pass(900);
        let beacon = server.beacon();
        client.handle(Input::Datagram(&beacon));
    }
    let (now, asked) = (client.now, client.requests.len());
    // The next key comes while the clock shows an earlier time, and earlier ones still.
    let old = server.data_key();
    client.now = ms(1);
    client.datagrams(&server.refresh());
    for _ in 0..1_000 {
        client.now = client.now.saturating_sub(ms(1));
        client.handle(Input::Timeout);
    }
    client.agrees(&server);
    assert_eq!(client.requests.len(), asked);
    client.now = now;
    client.handle(Input::Timeout);
    let epoch = server.context.epoch - 1;
    client.pass(700);
    assert_eq!(client.core.danger_data_key("g", epoch), Some(&old), "receivers keep the key before for four seconds");
    assert_eq!(client.status(), Status::Member);
}

#[test]
fn a_leap_is_one_silence_and_one_request() {
    for leap in [Duration::from_secs(3_600), YEAR] {
        let (mut client, mut server) = Client::member(4, 9);
        client.pass(100);
        client.datagrams(&server.refresh());
        drop(server.refresh());
        client.now += leap;
        let asked = client.requests.len();
        client.handle(Input::Timeout);
        assert_eq!(client.group().counters.silences, 1);
        assert_eq!(client.feeds["g"].keys.len(), 1, "older keys have ended, the newest has not");
        assert!(client.resyncs_within(WAIT_MS.into()));
        assert_eq!(client.requests.len(), asked + 1);
        client.answer(vec![server.granted()]);
        client.agrees(&server);
        // In the middle of a request, too.
        let beacon = {
            drop(server.refresh());
            server.beacon()
        };
        client.handle(Input::Datagram(&beacon));
        assert!(client.resyncs_within(WAIT_MS.into()));
        let asked = client.requests.len();
        client.now += leap;
        client.handle(Input::Timeout);
        client.pass(1_000);
        assert_eq!(client.requests.len(), asked + 1, "no answer in time: asked once more");
        client.answer(vec![server.granted()]);
        client.agrees(&server);
    }
}
