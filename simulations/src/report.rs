//! `report.html`: one self-contained page about a run.

use crate::outcome::{Outcome, SiteRow, bytes};

/// The page; `figures` are SVG texts that stand under the table.
#[must_use]
pub fn html(outcome: &Outcome, seed: u64, figures: &[String]) -> String {
    let private = outcome.sites.iter().any(|site| site.privacy.is_some());
    let rows: String = (outcome.sites.iter())
        .map(|site| row(site, private))
        .collect();
    let protected = if private {
        "<th>ε</th><th>not private</th>"
    } else {
        ""
    };
    let figures: String = figures
        .iter()
        .map(|svg| format!("<figure>{svg}</figure>\n"))
        .collect();
    let simulated = if outcome.sites.iter().any(|row| row.origin == "simulated") {
        "<p class=\"note\"><strong>Simulated:</strong> cohorts marked <em>simulated</em> are generated; no \
         patient is behind them.</p>"
    } else {
        ""
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{name} – Consilium run</title><style>{STYLE}</style></head><body>\n\
         <h1>{name}</h1>\n{simulated}\n\
         <p>{rounds} rounds, seed {seed}. All sites together received {down} and sent {up} of model values. \
         No secure aggregation was in use.</p>\n{privacy}\
         <table><thead><tr><th>site</th><th>cohort</th><th>task</th><th>train / test</th><th>metric</th>\
         <th>federated</th>{protected}<th>local only</th><th>constant</th><th>difference [95 %]</th>\
         <th>exchanged</th><th>stayed local</th></tr></thead><tbody>\n{rows}</tbody></table>\n\
         <p class=\"note\">Difference: federated minus local on the site's test part, one seed. Interval: \
         bootstrap over patients with both models fixed; it does not cover the spread over \
         seeds. A group held by fewer than {minimum} sites stays local.</p>\n{figures}\
         <p>Model SHA-256 <code>{hash}</code></p></body></html>\n",
        privacy = outcome
            .privacy_notes()
            .iter()
            .map(|note| format!("<p class=\"note\">{}</p>\n", escape(note)))
            .collect::<String>(),
        name = escape(&outcome.scenario),
        rounds = outcome.rounds,
        down = bytes(outcome.bytes_down),
        up = bytes(outcome.bytes_up),
        minimum = outcome.minimum_holders,
        hash = outcome.final_model_sha256,
    )
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:88rem;padding:0 1rem}\
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.3rem .6rem;border-bottom:1px solid #ccc;\
text-align:left}td:last-child{overflow-wrap:anywhere}td.n{text-align:right;font-variant-numeric:tabular-nums}.note{color:#444}\
figure{margin:1.5rem 0}svg{max-width:100%;height:auto}code{word-break:break-all}";

fn row(row: &SiteRow, private: bool) -> String {
    let number = |value: Option<f64>| value.map_or("undefined".into(), |v| format!("{v:.3}"));
    let difference = match (row.difference, row.interval) {
        (Some(value), Some([low, high])) => format!("{value:+.3} [{low:+.3}, {high:+.3}]"),
        (Some(value), None) => format!("{value:+.3}"),
        (None, _) => "undefined".into(),
    };
    let groups = |list: &[consilium_core::GroupName]| {
        let names: Vec<_> = list.iter().map(ToString::to_string).collect();
        escape(&names.join(", "))
    };
    let protected = if private {
        let epsilon = row.privacy.as_ref().map_or_else(
            || "undefined".into(),
            |privacy| format!("{:.2}", privacy.epsilon),
        );
        let other = number(row.unprotected);
        format!("<td class=\"n\">{epsilon}</td><td class=\"n\">{other}</td>")
    } else {
        String::new()
    };
    format!(
        "<tr><td>{}</td><td>{} ({})</td><td>{}</td><td class=\"n\">{} / {} {}s</td><td>{}</td>\
         <td class=\"n\">{}</td>{}<td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
         <td>{}</td><td>{}</td></tr>\n",
        escape(row.site.as_str()),
        escape(&row.modality),
        escape(&row.origin),
        escape(&row.task),
        row.train,
        row.test,
        escape(&row.unit),
        escape(&row.metric),
        number(row.federated),
        protected,
        number(row.local),
        number(row.constant),
        difference,
        groups(&row.shared),
        groups(&row.stayed),
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
