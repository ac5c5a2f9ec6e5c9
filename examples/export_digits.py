"""Write examples/data: one image of each digit from scikit-learn's bundled data set.

The data set is the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin & C. Kaynak, 1998, UCI Machine
Learning Repository), under CC BY 4.0. Each image has 8 × 8 grey values from 0 to 16.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

folder = Path(__file__).parent / "data"
folder.mkdir(exist_ok=True)
digits = load_digits()
for digit in range(10):
    image = digits.images[np.flatnonzero(digits.target == digit)[0]]
    Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"digit_{digit}.png")
