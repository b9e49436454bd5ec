//! Figures of a run, as SVG.

use plotters::prelude::*;

use crate::outcome::Outcome;
use crate::sweep::Sweep;

type Drawn = Result<(), Box<dyn std::error::Error>>;

const FEDERATED: RGBColor = RGBColor(0, 90, 160);
const LOCAL: RGBColor = RGBColor(210, 110, 0);
const UNPROTECTED: RGBColor = RGBColor(0, 158, 115);
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
        let mut arms: Vec<(&str, RGBColor, i32, Pick)> = vec![
            ("constant", CONSTANT, 3, |row| row.constant),
            ("local only", LOCAL, 5, |row| row.local),
        ];
        if outcome.sites.iter().any(|row| row.unprotected.is_some()) {
            arms.push(("not private", UNPROTECTED, 5, |row| row.unprotected));
        }
        arms.push(("federated", FEDERATED, 6, |row| row.federated));
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

/// Colours that people with the common colour deficiencies tell apart (Okabe and Ito 2008).
const SITES: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(150, 150, 60),
];

/// Per site the primary metric against epsilon: means over the seeds with one standard deviation to each side.
///
/// # Errors
/// When plotters refuses the figure, which would be our mistake.
pub fn privacy_curve(sweep: &Sweep) -> Result<String, String> {
    svg((860, 440), |root| {
        let levels: Vec<String> = (sweep.curves.first().into_iter())
            .flat_map(|curve| &curve.points)
            .map(|point| match point.level.0 {
                Some(epsilon) => epsilon.to_string(),
                None => "not private".into(),
            })
            .collect();
        let last = levels.len().saturating_sub(1) as f64;
        let (field, names) = root.split_horizontally(600);
        let mut chart = ChartBuilder::on(&field)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d(-0.3..last + 0.3, 0.3_f64..1.0)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(2 * levels.len() + 1)
            .x_label_formatter(&|place| {
                let whole = (place - place.round()).abs() < 1e-6;
                let label = whole.then(|| levels.get(place.round() as usize)).flatten();
                label.cloned().unwrap_or_default()
            })
            .x_desc("epsilon of every site over the whole study")
            .y_desc(format!("primary metric, {} part", sweep.split))
            .draw()?;
        let chance = [(-0.3, 0.5), (last + 0.3, 0.5)];
        let dashes = CONSTANT.stroke_width(1);
        chart.draw_series(DashedLineSeries::new(chance, 4, 4, dashes))?;
        let count = sweep.curves.len().max(1) as f64;
        let mut line = 30;
        for (index, curve) in sweep.curves.iter().enumerate() {
            let colour = SITES[index % SITES.len()];
            // Beside each other, or their bars would hide one another.
            let shift = (index as f64 - (count - 1.0) / 2.0) * 0.06;
            let points: Vec<(f64, f64, f64)> = (curve.points.iter().enumerate())
                .filter_map(|(place, point)| {
                    let place = place as f64 + shift;
                    Some((place, point.mean?, point.deviation.unwrap_or(0.0)))
                })
                .collect();
            let means = points.iter().map(|&(x, y, _)| (x, y));
            chart.draw_series(LineSeries::new(means, colour.stroke_width(2)))?;
            chart.draw_series(points.iter().map(|&(x, y, spread)| {
                PathElement::new([(x, y - spread), (x, y + spread)], colour.stroke_width(1))
            }))?;
            let dots = (points.iter()).map(|&(x, y, _)| Circle::new((x, y), 4, colour.filled()));
            chart.draw_series(dots)?;
            names.draw(&Circle::new((8, line), 4, colour.filled()))?;
            let name = format!("{} ({})", curve.site, curve.metric);
            names.draw(&Text::new(name, (20, line - 6), ("sans-serif", 13)))?;
            line += 20;
        }
        names.draw(&PathElement::new([(0, line), (16, line)], dashes))?;
        let name = "no better than chance";
        names.draw(&Text::new(name, (20, line - 6), ("sans-serif", 13)))?;
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
