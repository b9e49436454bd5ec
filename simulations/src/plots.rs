//! Figures of a run, as SVG.

use plotters::prelude::*;

use crate::outcome::Outcome;

type Drawn = Result<(), Box<dyn std::error::Error>>;

const FEDERATED: RGBColor = RGBColor(0, 90, 160);
const LOCAL: RGBColor = RGBColor(210, 110, 0);
const CONSTANT: RGBColor = RGBColor(140, 140, 140);

/// Per site the test metric of the federated, the local and the constant model.
///
/// # Errors
/// When plotters refuses the figure, which would be our mistake.
pub fn comparison(outcome: &Outcome) -> Result<String, String> {
    svg((900, 70 + 34 * outcome.sites.len() as u32), |root| {
        let rows = outcome.sites.len() as i32;
        let names: Vec<String> = outcome
            .sites
            .iter()
            .map(|row| format!("{} ({})", row.site, row.metric))
            .collect();
        let mut chart = ChartBuilder::on(root)
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(230)
            .build_cartesian_2d(0.0_f64..1.0, (0..rows).into_segmented())?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc("test part; 0.5 = uninformative for AUROC and C-index")
            .y_label_formatter(&|segment| match segment {
                SegmentValue::CenterOf(row) => names
                    .get((rows - 1 - row) as usize)
                    .cloned()
                    .unwrap_or_default(),
                _ => String::new(),
            })
            .draw()?;
        type Pick = fn(&crate::outcome::SiteRow) -> Option<f64>;
        let arms: [(&str, RGBColor, i32, Pick); 3] = [
            ("constant", CONSTANT, 3, |row| row.constant),
            ("local only", LOCAL, 5, |row| row.local),
            ("federated", FEDERATED, 6, |row| row.federated),
        ];
        for (label, colour, size, pick) in arms {
            let points = outcome.sites.iter().enumerate().filter_map(|(index, row)| {
                let place = SegmentValue::CenterOf(rows - 1 - index as i32);
                pick(row).map(|value| Circle::new((value, place), size, colour.filled()))
            });
            chart
                .draw_series(points)?
                .label(label)
                .legend(move |(x, y)| Circle::new((x + 8, y), size, colour.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(CONSTANT)
            .draw()?;
        Ok(())
    })
}

fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Drawn,
) -> Result<String, String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(|error| error.to_string())?;
        draw(&root).map_err(|error| error.to_string())?;
        root.present().map_err(|error| error.to_string())?;
    }
    Ok(text)
}
