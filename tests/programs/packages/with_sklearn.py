"""scikit-learn with n_jobs=2: cross-validation, a search, a forest."""

import sys

import joblib
from sklearn.datasets import load_iris, make_regression
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main(backend):
    data, kinds = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with joblib.parallel_config(backend):
        print(cross_val_score(model, data, kinds, cv=4, n_jobs=2).tolist())
        search = GridSearchCV(model, {"logisticregression__C": [0.1, 1.0, 10.0]}, cv=3, n_jobs=2).fit(data, kinds)
        print(search.best_params_, search.best_score_, search.cv_results_["mean_test_score"].tolist())
        forest = RandomForestClassifier(20, random_state=0, n_jobs=2).fit(data, kinds)
        print(forest.score(data, kinds), forest.feature_importances_.tolist())
        print(OneVsRestClassifier(LogisticRegression(max_iter=200), n_jobs=2).fit(data, kinds).predict(data[::10]).tolist())
        numbers, targets = make_regression(2000, 50, random_state=0)
        print(learning_curve(Ridge(), numbers, targets, n_jobs=2)[2].tolist())


if __name__ == "__main__":
    main(sys.argv[1])
