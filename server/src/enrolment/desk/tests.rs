use super::*;
use consilium_certs::{Authority, Role, Validity, make_key};

fn request(folder: &Path, name: &str) -> SigningRequest {
    let key = folder.join(format!("{name}.key"));
    if !key.exists() {
        make_key(&key).unwrap();
    }
    SigningRequest::make(&"a".parse().unwrap(), Role::Site, &key).unwrap()
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[test]
fn a_request_is_taken_once_and_its_answer_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority");
    let authority = Authority::create_with_unencrypted_key(&authority, "test").unwrap();
    let desk = Desk::open(folder.path()).unwrap();
    for _ in 0..3 {
        // A new signature each time, over the same key.
        let asked = desk.ask(Kind::Enrolment, &request(folder.path(), "one"), HERE);
        assert_eq!(asked.unwrap(), State::Waiting);
    }
    let other = request(folder.path(), "other");
    desk.ask(Kind::Enrolment, &other, HERE).unwrap();
    assert_eq!(desk.waiting().unwrap().len(), 2);
    assert_eq!(desk.find("a").unwrap_err().code(), "request_ambiguous");
    assert_eq!(desk.find("b").unwrap_err().code(), "request_unknown");
    let spoken = other.fingerprint().spoken();
    let record = desk.find(&spoken[..14]).unwrap();
    desk.reject(&record, "nobody knows this key").unwrap();
    let record = desk.find("a").unwrap();
    let issued = authority
        .approve(&record.request, Validity::days(1))
        .unwrap();
    desk.approve(&record, &issued.chain).unwrap();
    assert_eq!(
        desk.reject(&record, "late").unwrap_err().code(),
        "request_decided"
    );
    let desk = Desk::open(folder.path()).unwrap();
    let answer = |name| desk.ask(Kind::Enrolment, &request(folder.path(), name), HERE);
    let approved = State::Approved(issued.certificate.to_vec());
    assert_eq!(answer("one").unwrap(), approved);
    let rejected = State::Rejected("nobody knows this key".into());
    assert_eq!(answer("other").unwrap(), rejected);
    // The same key, renewed, is another request.
    let renewal = Kind::Renewal {
        of: issued.peer.serial,
    };
    let asked = desk.ask(renewal, &request(folder.path(), "one"), HERE);
    assert_eq!(asked.unwrap(), State::Waiting);
}

#[test]
fn a_flood_of_requests_is_bounded_in_time_and_number_and_does_not_touch_renewals() {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk::open(folder.path()).unwrap();
    let ask = |number: usize| {
        let request = request(folder.path(), &number.to_string());
        desk.ask(Kind::Enrolment, &request, HERE)
    };
    let taken = (0..2 * BURST as usize).filter(|number| ask(*number).is_ok());
    assert!((BURST as usize..=BURST as usize + 3).contains(&taken.count()));
    assert_eq!(ask(999).unwrap_err().code(), "enrolment_busy");
    // With time on its side, the flood ends at the number that may wait.
    let mut number = 1000;
    let refused = loop {
        *desk.new.lock().unwrap() = Allowance::full(Instant::now());
        if let Err(refused) = ask(number) {
            break refused;
        }
        number += 1;
    };
    assert_eq!(refused.code(), "enrolment_full");
    assert_eq!(desk.waiting().unwrap().len(), REQUESTS_WAITING);
    // What was asked before is still answered, and a site that has a certificate is heard.
    assert_eq!(ask(0).unwrap(), State::Waiting);
    let of = "01".to_owned();
    let renewal = desk.ask(Kind::Renewal { of }, &request(folder.path(), "0"), HERE);
    assert_eq!(renewal.unwrap(), State::Waiting);
}

#[test]
fn new_requests_are_earned_with_time_and_not_hoarded() {
    let start = Instant::now();
    let mut allowance = Allowance::full(start);
    let hours_later = start + Duration::from_secs(36_000);
    assert_eq!(
        (0..100).filter(|_| allowance.take(hours_later)).count(),
        BURST as usize
    );
    assert!(!allowance.take(hours_later + PAUSE / 2));
    assert!(allowance.take(hours_later + PAUSE));
    assert!(!allowance.take(hours_later + PAUSE));
}
