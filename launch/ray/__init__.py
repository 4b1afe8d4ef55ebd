"""Ray Train: vitjax as the training function of a JaxTrainer."""
