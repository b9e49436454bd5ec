//! Lists of Renyi orders.

/// The default orders: 1.05 to 3 by 0.05, to 10.9 by 0.1, 11 to 64, and a few up to 1024.
///
/// Fractional orders below three matter for large epsilons and tiny sampling rates.
pub fn default_orders() -> Vec<f64> {
    let fine = (21..60).map(|k| f64::from(k) / 20.0);
    let tenths = (30..110).map(|k| f64::from(k) / 10.0);
    let whole = (11..=64).map(f64::from);
    let far = [72.0, 80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0];
    fine.chain(tenths).chain(whole).chain(far).collect()
}

/// Whole orders from 2 to `highest`.
pub fn whole_orders(highest: u32) -> Vec<f64> {
    (2..=highest).map(f64::from).collect()
}
