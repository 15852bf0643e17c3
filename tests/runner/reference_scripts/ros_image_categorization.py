"""Images from a camera, categorized as they come: needs ROS, which is not installed with this software."""

import rospy

from runner import CNN, mlda, serket_ros


def main():
    obs = serket_ros.ObservationImg("image")
    cnn = CNN.CNNFeatureExtractor(fileames=None)
    mlda1 = mlda.MLDA(3, [1000])

    cnn.connect(obs)
    mlda1.connect(cnn)

    while not rospy.is_shutdown():
        obs.update()
        cnn.update()
        mlda1.update()


if __name__ == "__main__":
    main()
