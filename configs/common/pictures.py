"""Pictures of the first predictions, for sets that are small enough to look at."""

from detectron2.config import LazyCall as L

from lvt_d2.evaluation import PredictionPictures

# Appended to dataloader.evaluator, from where the dots count.
pictures = L(PredictionPictures)(
    dataset_name="${...test.dataset.names}",
    output_dir="${train.output_dir}/inference/pictures",
    max_pictures=12,
)
