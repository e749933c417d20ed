"""The one room that touches a backend's tape: taps on layers, and the train step that carries them."""
