//! One case: its fields, which of them were used, and what was wrong.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::Value;

/// Words about a case, not values to check.
const WORDS: [&str; 4] = ["id", "description", "note", "strategy"];

pub struct Case {
    name: String,
    value: Value,
    used: RefCell<BTreeSet<String>>,
    failures: RefCell<Vec<String>>,
}

impl Case {
    pub fn new(name: String, value: Value) -> Self {
        let id = value["id"]
            .as_str()
            .map_or(String::new(), |id| format!(" {id}"));
        Self {
            name: name + &id,
            value,
            used: RefCell::default(),
            failures: RefCell::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A field; `null` when the case does not have it.
    pub fn field(&self, key: &str) -> &Value {
        self.used.borrow_mut().insert(key.to_owned());
        &self.value[key]
    }

    pub fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    pub fn number(&self, key: &str) -> f64 {
        self.field(key)
            .as_f64()
            .unwrap_or_else(|| panic!("{}: {key} is not a number", self.name))
    }

    pub fn whole(&self, key: &str) -> u64 {
        self.number(key) as u64
    }

    pub fn numbers(&self, key: &str) -> Vec<f64> {
        let list = self.field(key).as_array();
        let list = list.unwrap_or_else(|| panic!("{}: {key} is not a list", self.name));
        list.iter().map(|v| v.as_f64().unwrap()).collect()
    }

    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        let keys = self.value.as_object().unwrap().keys();
        keys.filter(|key| !used.contains(*key) && !WORDS.contains(&key.as_str()))
            .cloned()
            .collect()
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.borrow().clone()
    }

    pub fn check(&self, holds: bool, what: impl std::fmt::Display) {
        if !holds {
            let failure = format!("{}: {what}", self.name);
            self.failures.borrow_mut().push(failure);
        }
    }

    /// |got - expected| <= relative |expected|.
    pub fn near(&self, what: &str, got: f64, expected: f64, relative: f64) {
        let miss = (got - expected).abs() / expected.abs().max(f64::MIN_POSITIVE);
        self.check(
            got == expected || miss <= relative,
            format!("{what}: got {got:e}, expected {expected:e}, off by {miss:.2e}"),
        );
    }

    /// A field of the case against what was computed; absent fields are fine.
    pub fn expect(&self, key: &str, got: f64, relative: f64) {
        if self.has(key) {
            self.near(key, got, self.number(key), relative);
        }
    }

    /// `low <= got <= high`.
    pub fn between(&self, what: &str, got: f64, low: f64, high: f64) {
        self.check(
            low <= got && got <= high,
            format!("{what}: got {got}, must be in [{low}, {high}]"),
        );
    }
}
